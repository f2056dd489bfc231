"""launch/slurm.sbatch on a real Slurm: trains on two nodes, and goes on from whatever stops it."""

import numpy as np
import pytest

import slurm
import training_runs

ABSENT = slurm.missing()
RECIPE = f'{training_runs.RECIPE}:llama'
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(ABSENT is not None, reason=f'no Slurm can be started: {ABSENT}'),
]


@pytest.fixture(scope='module')
def cluster(tmp_path_factory):
    with slurm.cluster(tmp_path_factory.mktemp('slurm')) as two_nodes:
        yield two_nodes


@pytest.fixture(scope='module')
def flags(tmp_path_factory):
    """Flags that name the data, made once."""
    return training_runs.make_data(tmp_path_factory.mktemp('data'))


@pytest.fixture
def workdir(tmp_path):
    return tmp_path / 'run'


@pytest.fixture
def log(tmp_path):
    """What the job's script and its processes print."""
    return tmp_path / 'job.log'


@pytest.fixture(scope='module')
def undisturbed(cluster, flags, tmp_path_factory):
    """A job that nothing happened to."""
    folder = tmp_path_factory.mktemp('undisturbed')
    job = cluster.submit(folder / 'job.log', RECIPE, str(folder / 'run'), *flags)
    finish(cluster, job, folder / 'job.log')
    return folder / 'run'


def reach(cluster, job, workdir, log, step):
    """Waits until a job has done a step."""
    arrived = f'step {step} of job {job}'
    cluster.wait(lambda: training_runs.steps_done(workdir) >= step, arrived, log, 300)


def finish(cluster, job, log):
    """Waits for the end of a job, which is a good one."""
    assert cluster.wait_for(job, 'COMPLETED', 'FAILED', log=log) == 'COMPLETED', log.read_text()


def assert_same(workdir, other):
    assert training_runs.losses(workdir) == training_runs.losses(other)
    ours, theirs = training_runs.parameters(workdir), training_runs.parameters(other)
    assert ours.keys() == theirs.keys() and len(ours) > 10
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)


def test_a_job_that_was_asked_to_leave_saves_and_is_queued_again_and_ends_as_one_process_does(
    cluster, flags, workdir, log, tmp_path
):
    job = cluster.submit(log, RECIPE, str(workdir), *flags)
    reach(cluster, job, workdir, log, 2)
    cluster.run('scancel', '--signal=TERM', job)
    # Meanwhile: two devices of one process. A sum of two is the same in any order.
    alone = tmp_path / 'alone'
    training_runs.train(alone, [*flags, '--cpu_devices=2'])
    finish(cluster, job, log)
    told = log.read_text()
    assert 'on 2 × cpu (data 1 × fsdp 2 × tensor 1)' in told
    assert 'Ended with code 143: queued again' in told and ', from step ' in told
    assert cluster.restarts(job) == 1
    assert_same(workdir, alone)


@pytest.mark.soak
def test_two_jobs_end_bit_for_bit_the_same_though_one_lost_a_node(
    cluster, flags, undisturbed, workdir, log
):
    job = cluster.submit(log, RECIPE, str(workdir), *flags)
    reach(cluster, job, workdir, log, 12)
    cluster.lose(cluster.nodes[1])
    cluster.wait_for(job, 'PENDING', log=log)
    cluster.bring(cluster.nodes[1])
    finish(cluster, job, log)
    assert cluster.restarts(job) == 1
    assert_same(workdir, undisturbed)


@pytest.mark.soak
@pytest.mark.parametrize('signal', ['TERM', 'KILL'])
def test_a_job_whose_processes_got_a_signal_ends_bit_for_bit_the_same(
    cluster, flags, undisturbed, workdir, log, signal
):
    job = cluster.submit(log, RECIPE, str(workdir), *flags)
    for number, step in enumerate((7, 19), 1):
        reach(cluster, job, workdir, log, step)
        if signal == 'TERM':
            cluster.run('scancel', '--signal=TERM', job)
        else:
            cluster.kill_training(cluster.nodes[1])
        restarts = f'restart {number} of job {job}'
        cluster.wait(lambda number=number: cluster.restarts(job) == number, restarts, log, 300)
    finish(cluster, job, log)
    if signal == 'TERM':  # saved, and not lost in a wait for each other
        assert log.read_text().count('Ended with code 143: queued again') == 2
    assert_same(workdir, undisturbed)


@pytest.mark.soak
def test_an_error_of_training_ends_a_job_and_says_why_in_its_log(cluster, flags, workdir, log):
    job = cluster.submit(log, RECIPE, str(workdir), *flags, '--config.mesh.tensor=3')
    assert cluster.wait_for(job, 'COMPLETED', 'FAILED', log=log) == 'FAILED'
    assert cluster.restarts(job) == 0 and 'mesh' in log.read_text()


@pytest.mark.soak
def test_a_cancelled_job_is_not_queued_again(cluster, flags, workdir, log):
    job = cluster.submit(log, RECIPE, str(workdir), *flags)
    reach(cluster, job, workdir, log, 5)
    cluster.run('scancel', job)
    assert cluster.wait_for(job, 'CANCELLED', 'PENDING', 'COMPLETED', log=log) == 'CANCELLED'
    cluster.wait(lambda: cluster.run('sinfo', '-h', '-o', '%T') == 'idle', 'two idle nodes', log)
    assert cluster.state(job) == 'CANCELLED' and cluster.restarts(job) == 0
