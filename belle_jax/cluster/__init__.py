"""Several processes that train as one: who belongs to a job, how they meet, and what ends them.

    job = cluster.find(coordinator, processes, process)     # None: this process is alone
    with cluster.joined(job, workdir / 'logs', facts, timeout=90, …):
        ...                                                 # jax.devices() are those of all

Inside the block a process that dies, hangs or fails ends all of them with a sentence that names it.
"""

from belle_jax.cluster.agreement import Member, facts
from belle_jax.cluster.job import ClusterJob, find
from belle_jax.cluster.joining import joined
from belle_jax.cluster.watch import LOST

__all__ = ['LOST', 'ClusterJob', 'Member', 'facts', 'find', 'joined']
