"""Which job a process belongs to is found from what its starter sets, and from nothing else."""

import os

import pytest
from jax._src.clusters import cloud_tpu_cluster

from belle_jax import cluster
from belle_jax.cluster.job import _expand

STARTERS = ('SLURM_', 'OMPI_', 'JAX_COORDINATOR', 'JAX_NUM_', 'JAX_PROCESS_', 'JOB_COMPLETION')
SLURM = {
    'SLURM_JOB_ID': '4242',
    'SLURM_STEP_NODELIST': 'n[07-08]',
    'SLURM_NTASKS': '2',
    'SLURM_STEP_NUM_TASKS': '2',
    'SLURM_STEP_TASKS_PER_NODE': '1(x2)',
    'SLURM_PROCID': '1',
    'SLURM_NODEID': '1',
    'SLURM_LOCALID': '0',
}
ORTE = 'OMPI_MCA_orte_hnp_uri'
OPEN_MPI = {
    'OMPI_COMM_WORLD_SIZE': '4',
    'OMPI_COMM_WORLD_RANK': '3',
    'OMPI_COMM_WORLD_LOCAL_RANK': '1',
    'OMPI_COMM_WORLD_LOCAL_SIZE': '2',
}
PODS = {
    'JAX_COORDINATOR_ADDRESS': 'belle-workers-0-0.belle:8476',
    'JAX_NUM_PROCESSES': '3',
    'JOB_COMPLETION_INDEX': '2',
}


@pytest.fixture
def environment(monkeypatch):
    """Sets variables, in an environment without any starter's."""
    for name in [n for n in os.environ if n.startswith(STARTERS) or n == 'CUDA_VISIBLE_DEVICES']:
        monkeypatch.delenv(name)

    def set_variables(values):
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return set_variables


def found(**flags):
    """The job, which there must be."""
    job = cluster.find(**flags)
    assert job is not None
    return job


def test_a_process_that_nobody_speaks_of_is_alone(environment):
    assert cluster.find() is None
    environment({'JAX_COORDINATOR_ADDRESS': 'a:1', 'JOB_COMPLETION_INDEX': '1'})
    assert cluster.find() is None, 'jobs of an array have nothing to do with each other'


def test_flags_say_all(environment):
    environment(SLURM)
    job = found(coordinator='10.0.0.1:8476', processes=2, process=0)
    assert (job.by, job.hosts, job.devices) == ('the command line', (), None)
    assert job.address == ('10.0.0.1', 8476)
    assert found(coordinator='[fe80::1]:8476', processes=2, process=0).address[0] == 'fe80::1'
    assert cluster.find('10.0.0.1:8476', 1, 0) is None, 'one process is alone'


def test_slurm_is_joined_with_all_devices_of_a_machine_that_is_not_shared(environment):
    environment(SLURM | {'CUDA_VISIBLE_DEVICES': '0,1,2,3'})
    port = 4242 % 4096 + 61440  # as JAX derives it from the job's number
    assert found() == cluster.ClusterJob(f'n07:{port}', 2, 1, 'Slurm', ('n07', 'n08'), None)
    environment({'JAX_COORDINATOR_PORT': '5000'})
    assert found().coordinator == 'n07:5000'
    assert found(coordinator='n07-ib:6000').coordinator == 'n07-ib:6000'


@pytest.mark.parametrize('name', ['SLURM_STEP_NUM_TASKS', 'SLURM_NTASKS'])
def test_an_allocation_of_slurm_with_one_task_is_not_joined(environment, monkeypatch, name):
    environment(SLURM | {'SLURM_NTASKS': '2', 'SLURM_PROCID': '0', name: '1'})
    if name == 'SLURM_NTASKS':
        monkeypatch.delenv('SLURM_STEP_NUM_TASKS')
    assert cluster.find() is None


@pytest.mark.parametrize(
    ('variables', 'devices'),
    [
        ({}, (1,)),  # as JAX has it
        ({'CUDA_VISIBLE_DEVICES': '0,1,2,3,4,5,6,7'}, (2, 3)),
        ({'CUDA_VISIBLE_DEVICES': '5'}, None),  # bound to the task already
        ({'CUDA_VISIBLE_DEVICES': '0,1', 'SLURM_GPUS_PER_TASK': '2'}, None),
        ({'JAX_LOCAL_DEVICE_IDS': '3'}, None),  # JAX reads it itself
    ],
)
def test_tasks_that_share_a_machine_share_its_devices(environment, variables, devices):
    tasks = {'SLURM_STEP_NUM_TASKS': '6', 'SLURM_STEP_TASKS_PER_NODE': '2,4', 'SLURM_LOCALID': '1'}
    environment(SLURM | tasks | variables)
    job = found()
    assert job.devices == devices
    assert job.hosts == (), 'which task is where is not known'


def test_lists_of_nodes_are_written_out():
    names = ['n007', 'n008', 'n012', 'gpu-1', 'r0c1', 'r0c2', 'r1c1', 'r1c2x', 'login']
    text = 'n[007-008,012],gpu-1,r0c[1-2],r1c1,r1c[2]x,login'
    assert _expand(text) == names
    assert _expand('r[0-1]c[1-2]') == ['r0c1', 'r0c2', 'r1c1', 'r1c2']


def test_pods_of_an_indexed_job_have_their_numbers_from_kubernetes(environment):
    environment(PODS)
    pods = tuple(f'belle-workers-0-{n}' for n in range(3))
    assert found() == cluster.ClusterJob('belle-workers-0-0.belle:8476', 3, 2, 'Kubernetes', pods)
    environment({'JAX_PROCESS_ID': '1'})  # as where a JobSet has a job for each process
    assert found() == cluster.ClusterJob('belle-workers-0-0.belle:8476', 3, 1, 'the environment')


def test_open_mpi_says_who_is_who_and_until_version_5_where(environment):
    environment(OPEN_MPI)
    with pytest.raises(ValueError, match=r'--coordinator=HOST:PORT .* must be given'):
        cluster.find()
    environment({ORTE: '1531576320.0;tcp://10.96.0.1,10.148.0.1:34911'})
    port = 1531576320 // 4096 % 4096 + 61440
    assert found() == cluster.ClusterJob(f'10.96.0.1:{port}', 4, 3, 'Open MPI', (), (1,))


@pytest.mark.parametrize(
    ('slices', 'job'),
    [
        ({}, cluster.ClusterJob('t0:8482', 4, 2, 'TPU metadata', ('t0', 't1', 't2', 't3'))),
        (
            {
                'MEGASCALE_COORDINATOR_ADDRESS': 's0:8080',
                'MEGASCALE_NUM_SLICES': '2',
                'MEGASCALE_SLICE_ID': '1',
            },
            cluster.ClusterJob('s0:8482', 8, 6, 'TPU metadata'),
        ),
    ],
)
def test_tpu_machines_find_each_other(environment, monkeypatch, slices, job):
    monkeypatch.setattr(cloud_tpu_cluster, 'running_in_cloud_tpu_vm', True)
    monkeypatch.setattr(cloud_tpu_cluster, 'get_metadata', lambda key: ('', 404))
    environment({'TPU_WORKER_HOSTNAMES': 'localhost', 'TPU_WORKER_ID': '0'})
    assert cluster.find() is None, 'one machine'
    environment({'TPU_WORKER_HOSTNAMES': 't0,t1,t2,t3', 'TPU_WORKER_ID': '2'} | slices)
    assert found() == job


@pytest.mark.parametrize(
    ('variables', 'flags', 'sentence'),
    [
        ({}, {'processes': 2}, r'--coordinator=HOST:PORT .* and --process .* must be given'),
        (PODS | {'JOB_COMPLETION_INDEX': ''}, {}, 'JOB_COMPLETION_INDEX= must be a whole number'),
        (PODS | {'JOB_COMPLETION_INDEX': '3'}, {}, r'--process=3 of --processes=3 \(Kubernetes\)'),
        (SLURM, {'coordinator': 'n07'}, r'--coordinator=n07 \(Slurm\) must be HOST:PORT'),
        (SLURM, {'coordinator': 'n07:0'}, 'must be HOST:PORT'),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(environment, variables, flags, sentence):
    environment(variables)
    with pytest.raises(ValueError, match=sentence):
        cluster.find(**flags)
