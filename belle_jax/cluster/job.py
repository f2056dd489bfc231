"""Whether this process is one of several that are to work as one, and which: from who started it.

What is asked, first to last; what an earlier one says of a field wins:

1. The flags --coordinator, --processes, --process.
2. The variables JAX_COORDINATOR_ADDRESS (HOST:PORT of process 0), JAX_NUM_PROCESSES and
   JAX_PROCESS_ID, or JOB_COMPLETION_INDEX in its place, which Kubernetes gives each pod of an
   indexed Job or JobSet.
3. Open MPI (mpirun), from its variables; version 5 does not say where process 0 is, so that
   --coordinator or JAX_COORDINATOR_ADDRESS must.
4. Slurm, inside srun. An allocation with one task is one process, whatever else it holds.
5. TPU machines, from their metadata or, on Kubernetes, from what GKE sets.

Where JAX's own detection is right it is used. What it is not asked: the number of devices, for it
gives a process of Slurm or Open MPI one GPU of its machine even where it is alone there; how many
tasks Slurm runs, for it reads the allocation's number where a shell of that allocation is meant;
and Kubernetes, where it needs a package and the permission to read pods.
"""

import dataclasses
import os
import re
from typing import Any

FIELDS = {
    'coordinator': '--coordinator=HOST:PORT (or JAX_COORDINATOR_ADDRESS)',
    'processes': '--processes (or JAX_NUM_PROCESSES)',
    'process': '--process (or JAX_PROCESS_ID)',
}


@dataclasses.dataclass(frozen=True)
class ClusterJob:
    """One of several processes.

    Attributes:
        coordinator: HOST:PORT where process 0 listens, as the others reach it.
        processes: How many there are.
        process: Which one this is, from 0.
        by: Who says so.
        hosts: The machine of each process as the scheduler has it; () where it is not known.
        devices: Which of the GPUs that it sees are this process's; None: all.
    """

    coordinator: str
    processes: int
    process: int
    by: str = 'the command line'
    hosts: tuple[str, ...] = ()
    devices: tuple[int, ...] | None = None

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the coordinator."""
        host, _, port = self.coordinator.rpartition(':')
        return host.strip('[]'), int(port)


def find(
    coordinator: str | None = None, processes: int | None = None, process: int | None = None
) -> ClusterJob | None:
    """The job that this process is part of, or None if it is alone.

    Args:
        coordinator: HOST:PORT of process 0, where it is given and not to be found out.
        processes: How many, likewise.
        process: Which, likewise.
    Raises:
        ValueError: what is given or set is incomplete or cannot be.
    """
    flags = {'coordinator': coordinator, 'processes': processes, 'process': process}
    given = {name: value for name, value in flags.items() if value is not None}
    fields: dict[str, Any] = given if len(given) == len(flags) else _variables() | given
    if not fields.keys() >= flags.keys():
        fields = (_open_mpi() or _slurm() or _tpu()) | fields
    if not given and 'processes' not in fields:
        return None
    if missing := [name for name in FIELDS if name not in fields]:
        raise ValueError(
            f'{" and ".join(FIELDS[name] for name in missing)} must be given: each of several '
            'processes needs the address of process 0, how many they are, and its own number. '
            'Give all three, or start them with Slurm, mpirun or on TPU machines, which say them.'
        )
    job = ClusterJob(**fields)
    if not 0 <= job.process < job.processes:
        raise ValueError(
            f'--process={job.process} of --processes={job.processes} ({job.by}) cannot be: '
            'processes count from 0 to one less than their number.'
        )
    if not re.fullmatch(r'.+:\d{1,5}', job.coordinator) or not 0 < job.address[1] < 1 << 16:
        raise ValueError(
            f'--coordinator={job.coordinator} ({job.by}) must be HOST:PORT: the machine of process '
            '0 as the others reach it, and a free port there.'
        )
    return job if job.processes > 1 else None


def _number(name: str) -> int:
    """The value of a variable that is set."""
    try:
        return int(os.environ[name])
    except ValueError:
        raise ValueError(f'{name}={os.environ[name]} must be a whole number.') from None


def _variables() -> dict[str, Any]:
    """What the environment says outright, as JAX and Orbax call it."""
    fields: dict[str, Any] = {}
    if address := os.environ.get('JAX_COORDINATOR_ADDRESS'):
        fields['coordinator'] = address
    if 'JAX_NUM_PROCESSES' not in os.environ:
        return fields  # JOB_COMPLETION_INDEX alone: jobs that have nothing to do with each other
    fields |= {'processes': _number('JAX_NUM_PROCESSES'), 'by': 'the environment'}
    if 'JAX_PROCESS_ID' in os.environ:
        return fields | {'process': _number('JAX_PROCESS_ID')}
    if 'JOB_COMPLETION_INDEX' in os.environ:
        fields |= {'process': _number('JOB_COMPLETION_INDEX'), 'by': 'Kubernetes'}
        first = (address or '').partition('.')[0]  # the pods of a job differ by their last number
        if first.endswith('-0'):
            fields['hosts'] = tuple(f'{first[:-1]}{n}' for n in range(fields['processes']))
    return fields


def _open_mpi() -> dict[str, Any]:
    from jax._src.clusters import OmpiCluster

    if 'OMPI_COMM_WORLD_SIZE' not in os.environ:
        return {}
    fields = {
        'processes': _number('OMPI_COMM_WORLD_SIZE'),
        'process': _number('OMPI_COMM_WORLD_RANK'),
        'by': 'Open MPI',
        'devices': _share(
            _number('OMPI_COMM_WORLD_LOCAL_RANK'), _number('OMPI_COMM_WORLD_LOCAL_SIZE')
        ),
    }
    if OmpiCluster.is_env_present():
        fields['coordinator'] = OmpiCluster.get_coordinator_address(None, _port())
    return fields


def _slurm() -> dict[str, Any]:
    from jax._src.clusters import SlurmCluster

    if not SlurmCluster.is_env_present():
        return {}
    nodes = _expand(os.environ['SLURM_STEP_NODELIST'])
    counts = os.environ.get('SLURM_STEP_TASKS_PER_NODE', '1')  # such as 2(x3),1
    tasks = [
        int(count)
        for count, times in re.findall(r'(\d+)(?:\(x(\d+)\))?', counts)
        for _ in range(int(times or 1))
    ]
    number = 'SLURM_STEP_NUM_TASKS' if 'SLURM_STEP_NUM_TASKS' in os.environ else 'SLURM_NTASKS'
    node = _number('SLURM_NODEID') if 'SLURM_NODEID' in os.environ else 0
    return {
        'coordinator': SlurmCluster.get_coordinator_address(None, _port()),
        'processes': _number(number),
        'process': SlurmCluster.get_process_id(),
        'by': 'Slurm',
        'hosts': tuple(nodes) if max(tasks) == 1 else (),
        'devices': _share(_number('SLURM_LOCALID'), tasks[node] if node < len(tasks) else 1),
    }


def _tpu() -> dict[str, Any]:
    from jax._src.clusters import GceTpuCluster, GkeTpuCluster, cloud_tpu_cluster

    for metadata in (GkeTpuCluster, GceTpuCluster):
        if metadata.is_env_present():
            workers = metadata._get_worker_list_in_slice()
            slices = metadata._get_num_slices()
            # JAX would wait here until the name is known; `joined` does, and says so.
            first = cloud_tpu_cluster.get_tpu_env_value('MEGASCALE_COORDINATOR_ADDRESS')
            host = (first or workers[0]).split(':')[0]
            return {
                'coordinator': f'{host}:{_port() or cloud_tpu_cluster.coordinator_port}',
                'processes': metadata.get_process_count(),
                'process': metadata.get_process_id(),
                'by': 'TPU metadata',
                'hosts': tuple(workers) if slices == 1 else (),
            }
    return {}


def _port() -> str | None:
    """A port that is to be used instead of the one that follows from the job's number."""
    return os.environ.get('JAX_COORDINATOR_PORT')


def _share(rank: int, tasks: int) -> tuple[int, ...] | None:
    """Which GPUs are a process's own; None: all that it sees.

    Args:
        rank: Of the process on its machine.
        tasks: How many there are on it.
    """
    visible = [name for name in os.environ.get('CUDA_VISIBLE_DEVICES', '').split(',') if name]
    bound = 'SLURM_GPUS_PER_TASK' in os.environ or 0 < len(visible) < tasks
    if tasks == 1 or bound or 'JAX_LOCAL_DEVICE_IDS' in os.environ:
        return None
    each = len(visible) // tasks or 1
    return tuple(range(rank * each, (rank + 1) * each))


def _expand(text: str) -> list[str]:
    """'n[1-2,07],gpu' -> ['n1', 'n2', 'n07', 'gpu'], as Slurm abbreviates lists of nodes."""
    names = []
    for part in re.findall(r'(?:[^,\[]|\[[^\]]*\])+', text):
        head, bracket, rest = part.partition('[')
        if not bracket:
            names.append(part)
            continue
        inside, _, tail = rest.partition(']')
        for piece in inside.split(','):
            low, _, high = piece.partition('-')
            for number in range(int(low), int(high or low) + 1):
                names += _expand(f'{head}{number:0{len(low)}}{tail}')
    return names
