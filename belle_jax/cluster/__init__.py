"""Several processes that train as one: who belongs to a job, how they meet, and what ends them.

    job = cluster.find(coordinator, processes, process)     # None: this process is alone
    with cluster.joined(job, workdir, facts, timeout=90, program='belle_jax.train', stopped=143):
        ...                                                 # jax.devices() are those of all

Inside the block a process that dies, hangs or fails ends all of them with a sentence that names it.
"""

from belle_jax.cluster.agreement import facts
from belle_jax.cluster.job import ClusterJob, find
from belle_jax.cluster.joining import joined
from belle_jax.cluster.watch import LOST

__all__ = ['LOST', 'ClusterJob', 'facts', 'find', 'joined']
