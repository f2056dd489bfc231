"""Several processes train as one: the same losses, the same checkpoint, and one end for all."""

import dataclasses
import json
import os
import re
import shutil
import signal
import socket
import time

import numpy as np
import pytest

import programs
import tiny
import training_runs
from belle_jax import config
from belle_jax.decoding import Sampling, assistant, prompt_file
from belle_jax.training.loop import Trainer

pytestmark = pytest.mark.slow
LOST = 75


@pytest.fixture(scope='module')
def flags(tmp_path_factory):
    """Flags that name the data, made once."""
    return training_runs.make_data(tmp_path_factory.mktemp('data'))


def start(workdir, flags, processes, devices):
    """The processes of a run, started."""
    flags = [*flags, f'--cpu_devices={devices}']
    return [training_runs.start(workdir, [*own, *flags]) for own in programs.job(processes)]


def codes(running):
    return [process.wait(timeout=300) for process in running]


def wait_for_step(running, workdir, step):
    while training_runs.steps_done(workdir) < step:
        assert [process.poll() for process in running] == [None] * len(running)
        time.sleep(0.01)


def said(workdir, processes):
    """What each process printed."""
    logs = [workdir.with_suffix('.log')]
    logs += [workdir / 'logs' / f'process-{n}.log' for n in range(1, processes)]
    return [log.read_text() for log in logs]


@pytest.mark.parametrize('processes', [2, pytest.param(4, marks=pytest.mark.soak)])
def test_several_processes_train_as_one_and_read_their_rows_alone(flags, tmp_path, processes):
    workdir, alone = tmp_path / 'run', tmp_path / 'alone'
    # Of four, pairs hold copies and share the parameters, over links of which some are slow.
    sizes = {'data': 1, 'dcn_data': 2, 'fsdp': 2, 'tensor': 2}
    sizes |= {'fsdp': 1, 'dcn_fsdp': 2} if processes == 4 else {}
    mesh = [f'--config.mesh.{axis}={size}' for axis, size in sizes.items()]
    steps, rate = (15, 2e-3) if processes == 2 else (30, 1e-3)
    settings = [f'--config.train.steps={steps}', f'--config.optim.learning_rate={rate}']
    running = start(workdir, [*flags, *mesh, *settings], processes, 8 // processes)
    assert codes(running) == [0] * processes, said(workdir, processes)
    run = config.load(workdir / 'config.json')
    assert run.optim.learning_rate == rate and run.optim.warmup_steps == 5
    run = dataclasses.replace(run, mesh=config.Mesh(2, 2, 2))  # one process is one slice
    Trainer(run, alone).train()  # the eight devices of this process
    losses = training_runs.losses(alone)
    assert len(losses) == steps and losses[-1] < losses[0] - 0.5
    np.testing.assert_allclose(training_runs.losses(workdir), losses, rtol=1e-5)

    rows = [re.findall(r'(\d+) rows were read here, of (\d+)', x) for x in said(workdir, processes)]
    # 8 rows a step, split by data and fsdp: four parts. Two processes that differ by the tensor
    # axis alone need the same rows.
    share = 8 * steps // min(processes, 4)
    assert rows == [[(str(share), str(8 * steps))]] * processes

    shutil.copytree(workdir, tmp_path / 'restored')
    restored = Trainer(run, tmp_path / 'restored')
    restored.saving.checkpoints.close()
    stored, ours = training_runs.parameters(workdir), training_runs.parameters(alone)
    assert restored.number == steps and len(stored) > 10
    for name, value in stored.items():
        np.testing.assert_array_equal(restored.state.trainable[name], value, err_msg=name)
        np.testing.assert_allclose(value, ours[name], atol=1e-5, err_msg=name)


def test_one_that_is_asked_to_stop_stops_all_and_other_numbers_go_on_exactly(flags, tmp_path):
    """One process, then two of which one gets SIGTERM, then one: as if it had been one all along.

    Sums over two devices do not depend on who adds them, so that every bit is the same.
    """
    workdir, undisturbed = tmp_path / 'run', tmp_path / 'undisturbed'
    flags = [*flags, '--config.train.steps=60']
    training_runs.train(undisturbed, [*flags, '--cpu_devices=2'])
    training_runs.train(workdir, [*flags, '--cpu_devices=2', '--config.train.max_steps=7'])
    both = start(workdir, flags, 2, 1)
    wait_for_step(both, workdir, 9)
    both[1].send_signal(signal.SIGTERM)
    assert codes(both) == [143, 143]
    done = training_runs.steps_done(workdir)
    assert 9 <= done < 60 and (workdir / 'checkpoints' / str(done)).is_dir()
    training_runs.train(workdir, [*flags, '--cpu_devices=2'])
    assert training_runs.losses(workdir) == training_runs.losses(undisturbed)
    ours, theirs = training_runs.parameters(workdir), training_runs.parameters(undisturbed)
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)


@pytest.mark.parametrize(
    ('number', 'how'),
    [(0, signal.SIGKILL), pytest.param(1, signal.SIGSTOP, marks=pytest.mark.soak)],
)
def test_one_that_is_lost_in_a_step_ends_the_other_before_jax_does(flags, tmp_path, number, how):
    """JAX's own end is SIGABRT; here the code is 75, and the last line is a sentence."""
    workdir = tmp_path / 'run'
    long = ['--config.train.steps=5000', '--config.train.checkpoint_every=-1']
    both = start(workdir, [*flags, *long, '--cluster_timeout=6'], 2, 1)
    wait_for_step(both, workdir, 3)
    both[number].send_signal(how)
    begun = time.monotonic()
    assert both[1 - number].wait(timeout=60) == LOST
    assert time.monotonic() - begun < 6 + 2, 'the time that is set, and a busy machine'
    both[number].kill()
    both[number].wait()
    last = said(workdir, 2)[1 - number].strip().splitlines()[-1]
    words = 'was lost' if how == signal.SIGKILL else 'has not been heard from for 6 s'
    assert last.startswith(f'belle_jax.train: process {number} on {socket.gethostname()} {words}')


def test_a_mesh_that_does_not_fit_the_devices_of_all_is_one_sentence(flags, tmp_path):
    workdir = tmp_path / 'run'
    assert codes(start(workdir, [*flags, '--config.mesh.fsdp=3'], 2, 1)) == [1, 1]
    for text in said(workdir, 2):
        last = text.strip().splitlines()[-1]
        assert last.startswith('belle_jax.train: --config.mesh') and 'not fit 2 devices' in last
        assert 'Traceback' not in text


@pytest.mark.soak  # test_evaluate_run has two processes answer as well
def test_what_one_process_has_begun_to_answer_two_answer_in_the_same_words(tmp_path):
    """One process with two devices, cut in the middle; process 0 alone writes."""
    tiny.write_model(model := tmp_path / 'model')
    prompts, output, log = (tmp_path / name for name in ('prompts.jsonl', 'answers.jsonl', 'log'))
    questions = ['What?', '你好', 'a much longer question ' * 3, 'Why?', 'Who?']
    prompts.write_text(''.join(json.dumps({'prompt': q}) + '\n' for q in questions))
    sampling = {'temperature': 0.8, 'max_new_tokens': 12, 'seed': 3}
    voice = assistant.voice(model)
    run = {'model': str(model), 'step': None, 'template': voice.template.name, 'system': ''}
    run |= {'dtype': 'float32', 'batch_size': 2, 'settings': sampling}
    rows = prompt_file.read_prompts(prompts)
    engine = assistant.engine(model, voice, batch_size=2, devices=2)
    with prompt_file.Output(output, rows, run) as alone:
        prompt_file.answer(engine, voice, rows, alone, lambda _: Sampling(**sampling))
    made = output.read_bytes()
    assert len(made.splitlines()) == 5
    output.write_bytes(made[: len(made) // 2])

    flags = [f'--model={model}', f'--prompts={prompts}', f'--output={output}', '--batch_size=2']
    flags += [f'--{name}={value}' for name, value in sampling.items()]
    command = ['python', '-m', 'belle_jax.sample', *flags]
    env = os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(programs.ROOT)}
    running = [
        programs.Program([*command, *own], cwd=programs.ROOT, env=env, stdout=log)
        for own in programs.job(2)
    ]
    assert codes(running) == [0, 0], log.read_text()
    assert log.read_text().count('5 answers are in') == 1
    assert output.read_bytes() == made
