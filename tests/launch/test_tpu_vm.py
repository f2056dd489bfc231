"""launch/tpu_vm.sh: commands that gcloud knows, and hosts that do as they are told."""

import json
import os
import re
import subprocess

import pytest

import starters

COMMANDS = (
    ('create',),
    ('setup',),
    ('train', 'sft_llama:7b', 'gs://bucket/run', '--config.train.wandb=my run'),
    ('log',),
    ('stop',),
    ('fetch', 'gs://bucket/run', 'runs'),
    ('fetch', '/mnt/run', 'runs'),
    ('delete',),
)


@pytest.mark.parametrize(
    ('kind', 'image'),
    [
        ('v5litepod-16', 'v2-alpha-tpuv5-lite'),
        ('v5p-8', 'v2-alpha-tpuv5'),
        ('v6e-64', 'v2-alpha-tpuv6e'),
        ('v4-32', 'tpu-ubuntu2204-base'),
    ],
)
def test_a_slice_is_made_with_the_image_of_its_kind(kind, image):
    settings = {'NAME': 'belle', 'ZONE': 'us-central1-a', 'TYPE': kind}
    (command,) = starters.planned('tpu_vm.sh', 'create', **settings, SPOT='yes')
    assert command == [
        *('gcloud', 'compute', 'tpus', 'tpu-vm', 'create', 'belle'),
        *(f'--accelerator-type={kind}', f'--version={image}', '--spot', '--zone=us-central1-a'),
    ]
    (command,) = starters.planned('tpu_vm.sh', 'create', **settings)
    assert '--spot' not in command


def test_gcloud_knows_every_command_and_flag(tmp_path):
    gcloud = starters.tool('gcloud', 'the SDK of Google Cloud')
    commands = [c for words in COMMANDS for c in starters.planned('tpu_vm.sh', *words, SPOT='yes')]
    ours = [
        # Its own reader of command lines takes no quotes, so what the hosts run is left out here.
        ' '.join(re.sub('^--command=.*', '--command=true', word, flags=re.DOTALL) for word in c)
        for c in commands
        if c[0] == 'gcloud'
    ]
    listed = tmp_path / 'commands.json'
    listed.write_text(json.dumps([{'command_string': line} for line in ours]))
    done = subprocess.run(
        [gcloud, 'meta', 'lint-gcloud-commands', f'--commands-file={listed}'],
        env=os.environ | {'CLOUDSDK_CONFIG': str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    found = [(c['command_string'], c.get('error_message')) for c in json.loads(done.stdout)]
    assert len(found) == len(set(ours)) == 7 and [error for error in found if error[1]] == []


@pytest.fixture
def slice_of_two(tmp_path):
    """A gcloud that runs here what two hosts are to run, each in a home of its own."""
    (tmp_path / 'home').mkdir()
    homes = [tmp_path / 'home' / host for host in ('0', '1')]
    for home in homes:
        (home / 'belle-jax').mkdir(parents=True)
        saving = 'trap "echo saved; exit 143" TERM; while :; do sleep 0.1; done'
        starters.stub(home / 'venv' / 'bin' / 'python', f'echo "$PWD" "$@"; {saving}')
    body = f"""
    for word; do case $word in
      --worker=all) hosts='0 1' ;;
      --worker=*) hosts=${{word#*=}} ;;
      --command=*) run=${{word#*=}} ;;
    esac; done
    for host in $hosts; do HOME={tmp_path}/home/$host; cd; bash -c "$run" || exit; done"""
    starters.stub(tmp_path / 'bin' / 'gcloud', body)
    yield homes, {'PATH': f'{tmp_path}/bin:{os.environ["PATH"]}'}
    starters.call('tpu_vm.sh', 'stop', PATH=f'{tmp_path}/bin:{os.environ["PATH"]}')


def test_every_host_of_a_slice_trains_until_it_is_told_to_stop(slice_of_two):
    homes, path = slice_of_two
    words = ('train', 'sft_llama:7b', 'gs://bucket/run', "--config.train.wandb=it's my run")
    assert starters.call('tpu_vm.sh', *words, **path).returncode == 0
    again = starters.call('tpu_vm.sh', *words, **path)
    assert again.returncode == 1 and again.stderr == 'it trains already\n'
    follower = subprocess.Popen(
        [starters.LAUNCH / 'tpu_vm.sh', 'log'],
        env=os.environ | path,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert starters.call('tpu_vm.sh', 'stop', **path).returncode == 0
    told, _ = follower.communicate(timeout=30)
    flags = "--config=sft_llama:7b --workdir=gs://bucket/run --config.train.wandb=it's my run"
    assert told == f'{homes[0]}/belle-jax -m belle_jax.train {flags}\nsaved\n', (
        'which ends with training'
    )
    for home in homes:
        assert (
            home / 'train.log'
        ).read_text() == f'{home}/belle-jax -m belle_jax.train {flags}\nsaved\n'
