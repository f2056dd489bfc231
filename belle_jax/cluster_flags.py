"""The flags of every program whose processes may work as one, and how they join."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags

from belle_jax import cli, cluster

COORDINATOR = flags.DEFINE_string(
    'coordinator', None, 'Of several processes: HOST:PORT of process 0, where nobody says it.'
)
PROCESSES = flags.DEFINE_integer('processes', None, 'How many, likewise.')
PROCESS = flags.DEFINE_integer('process', None, "This process's number, likewise.")
TIMEOUT = flags.DEFINE_float(
    'cluster_timeout', 90.0, 'Seconds within which a lost process ends the others.', lower_bound=1
)


def find() -> cluster.ClusterJob | None:
    """The job that this process is part of, or None if it is alone."""
    return cluster.find(COORDINATOR.value, PROCESSES.value, PROCESS.value)


def all_devices(flag: flags.FlagHolder[int]) -> int:
    """The devices of all processes of a job, each of which takes part in one model.

    Args:
        flag: --devices, which cannot ask for others.
    Raises:
        ValueError: it does.
    """
    import jax

    if flag.present and flag.value != jax.device_count():
        raise ValueError(
            f'--devices={flag.value}: {jax.process_count()} processes have {jax.device_count()} '
            'devices, and share the work among all. Leave it out.'
        )
    return jax.device_count()


def joined(
    job: cluster.ClusterJob | None,
    logs: Path,
    values: Mapping[str, Any],
    *,
    place: str,
    stopped: int = 1,
    may_part: bool = False,
) -> contextlib.AbstractContextManager[cluster.Member | None]:
    """As `cluster.joined`, with the flags' settings; `values` are what all must have the same."""
    return cluster.joined(
        job,
        logs,
        cluster.facts(values) if job else {},
        place=place,
        timeout=TIMEOUT.value,
        program=cli.program(),
        stopped=stopped,
        may_part=may_part,
    )
