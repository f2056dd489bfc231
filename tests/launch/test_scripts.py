"""The scripts of launch/: what a linter and a dry run say of them, and how they end."""

import os
import re
import signal
import subprocess
import time

import pytest

import starters

SCRIPTS = ('slurm.sbatch', 'gpu_nodes.sh', 'tpu_vm.sh')


@pytest.mark.parametrize('path', sorted(starters.LAUNCH.iterdir()), ids=lambda path: path.name)
def test_a_starter_is_short_and_says_first_how_it_is_used(path):
    lines = path.read_text('utf-8').splitlines()
    assert len(lines) < 80
    end = next(n for n, line in enumerate(lines) if not line.startswith('#'))
    commands = [line for line in lines[:end] if line.startswith('#   ')]
    assert any(f'launch/{path.name}' in line for line in commands)


@pytest.mark.parametrize('name', SCRIPTS)
def test_shellcheck_has_nothing_to_say(name):
    shellcheck = starters.tool('shellcheck', 'it comes with the extra test')
    done = subprocess.run(
        [shellcheck, starters.LAUNCH / name], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize('name', SCRIPTS)
def test_help_is_the_head_of_the_script(name):
    done = starters.call(name, '--help')
    assert (done.returncode, done.stderr) == (0, '')
    assert f'launch/{name}' in done.stdout and '--dry_run' in done.stdout
    assert '#' not in done.stdout and 'set -e' not in done.stdout


@pytest.mark.parametrize(
    ('name', 'words', 'said'),
    [
        ('slurm.sbatch', ['sft_llama'], 'usage: sbatch launch/slurm.sbatch CONFIG WORKDIR'),
        ('gpu_nodes.sh', ['0', 'sft_llama'], 'RANK CONFIG WORKDIR'),
        ('gpu_nodes.sh', ['0', 'sft_llama', 'runs/a'], 'set COORDINATOR to ADDRESS:PORT'),
        ('tpu_vm.sh', ['train', 'sft_llama'], 'train CONFIG WORKDIR'),
        ('tpu_vm.sh', ['fetch', 'gs://b/run'], 'fetch WORKDIR FOLDER'),
        ('tpu_vm.sh', ['crate'], "'crate' is none of its commands"),
    ],
)
def test_what_is_missing_is_said_in_a_sentence(name, words, said):
    done = starters.call(name, *words)
    assert done.returncode == 2 and done.stdout == ''
    assert said in done.stderr and done.stderr.count('\n') == 1


# ─── Slurm ───────────────────────────────────────────────────────────────────────────────────────


def test_a_slurm_job_runs_one_process_a_node():
    (command,) = starters.planned(
        'slurm.sbatch', 'sft_llama:7b', 'runs/a', '--config.train.wandb=my run'
    )
    assert command[:2] == ['srun', '--kill-on-bad-exit=1']
    training = ['-m', 'belle_jax.train', '--config=sft_llama:7b', '--workdir=runs/a']
    assert command[-6:] == ['.venv/bin/python', *training, '--config.train.wandb=my run']
    options = re.findall(
        r'^#SBATCH (\S+)', (starters.LAUNCH / 'slurm.sbatch').read_text(), re.MULTILINE
    )
    needed = {'--requeue', '--signal=TERM@300', '--open-mode=append', '--ntasks-per-node=1'}
    assert needed <= set(options)


@pytest.mark.parametrize(
    ('code', 'reported'), [(0, 0), (75, 75), (143, 143), (137, 137), (1, 254), (2, 254)]
)
def test_an_error_of_training_is_the_highest_code_that_a_process_reports(tmp_path, code, reported):
    training = starters.stub(tmp_path / 'python', f'exit {code}')
    (command,) = starters.planned('slurm.sbatch', 'a', 'b', PYTHON=str(training))
    assert subprocess.run(command[2:], check=False).returncode == reported


@pytest.mark.parametrize(
    ('code', 'before', 'ended', 'queued'),
    [
        (0, 0, 0, False),
        (254, 0, 1, False),
        (75, 0, 75, True),
        (143, 19, 143, True),
        (143, 20, 143, False),
    ],
)
def test_a_job_is_queued_again_after_a_loss_and_not_after_an_error(
    tmp_path, code, before, ended, queued
):
    starters.stub(tmp_path / 'srun', f'exit {code}')
    starters.stub(tmp_path / 'scontrol', f'echo "$@" > {tmp_path}/asked')
    done = starters.call(
        *('slurm.sbatch', 'a', 'b'),
        PATH=f'{tmp_path}:{os.environ["PATH"]}',
        SLURM_JOB_ID='7',
        SLURM_RESTART_COUNT=str(before),
    )
    assert done.returncode == ended
    asked = tmp_path / 'asked'
    assert (asked.read_text() if asked.exists() else '') == ('requeue 7\n' if queued else '')
    assert ('not queued again' in done.stderr) == (before == 20)


# ─── machines without a scheduler ────────────────────────────────────────────────────────────────


def test_each_machine_gets_its_rank():
    words = ('1', 'sft_llama:7b', 'runs/a', '--config.train.wandb=my run')
    (command,) = starters.planned('gpu_nodes.sh', *words, COORDINATOR='10.0.0.1:8476', MACHINES='3')
    assert command == [
        *('.venv/bin/python', '-m', 'belle_jax.train'),
        *('--coordinator=10.0.0.1:8476', '--processes=3', '--process=1'),
        *('--config=sft_llama:7b', '--workdir=runs/a', '--config.train.wandb=my run'),
    ]
    done = starters.call('gpu_nodes.sh', *words, COORDINATOR='10.0.0.1:8476', MACHINES='1')
    assert done.returncode == 2 and 'rank 1 of 1 machines: give 0 to 0' in done.stderr


@pytest.mark.parametrize(('codes', 'ended'), [('75 75 0', 0), ('75 1', 1), ('143', 143)])
def test_training_is_started_again_only_after_a_machine_was_lost(tmp_path, codes, ended):
    (tmp_path / 'codes').write_text(codes.replace(' ', '\n') + '\n')
    take = f'code=$(head -n 1 {tmp_path}/codes); sed -i 1d {tmp_path}/codes; exit "$code"'
    python = str(starters.stub(tmp_path / 'python', take))
    settings = {'COORDINATOR': 'a:1', 'PYTHON': python, 'PAUSE': '0'}
    done = starters.call('gpu_nodes.sh', '0', 'a', 'b', **settings)
    assert done.returncode == ended and (tmp_path / 'codes').read_text() == ''
    assert done.stderr.count('A machine was lost') == codes.count('75')


def test_a_signal_to_the_script_reaches_training_which_may_take_its_time(tmp_path):
    saving = (
        'trap "sleep 0.5; touch saved; exit 143" TERM; touch ready; while :; do sleep 0.1; done'
    )
    python = str(starters.stub(tmp_path / 'python', f'cd {tmp_path}; {saving}'))
    script = subprocess.Popen(
        [starters.LAUNCH / 'gpu_nodes.sh', '0', 'a', 'b'],
        env=os.environ | {'COORDINATOR': 'a:1', 'PYTHON': python},
    )
    while not (tmp_path / 'ready').exists():
        assert script.poll() is None
        time.sleep(0.01)
    for _ in range(2):
        script.send_signal(signal.SIGTERM)
        time.sleep(0.1)
    assert script.wait(timeout=30) == 143 and (tmp_path / 'saved').exists()
