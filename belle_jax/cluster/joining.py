"""From a process alone to one of several: they meet, agree, share a directory, and start JAX."""

import atexit
import contextlib
import os
import secrets
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from belle_jax import disk
from belle_jax.cluster.agreement import Member, difference
from belle_jax.cluster.job import ClusterJob
from belle_jax.cluster.link import Link, detour, listen
from belle_jax.cluster.watch import LOST, Watch
from belle_jax.files import sweep

SEEN_WITHIN = 15.0  # seconds until a file of one machine is seen by the others
SEEN_SOON = 3.0  # likewise, where all can go on if it is not


@contextlib.contextmanager
def joined(
    job: ClusterJob | None,
    logs: Path,
    facts: Mapping[str, str],
    *,
    place: str,
    timeout: float,
    program: str,
    stopped: int,
    may_part: bool = False,
) -> Iterator[Member | None]:
    """While the block runs, this process is one of its job's; without a job it stays alone.

    JAX must not have been used before. Process 0 alone prints: what the others do goes to
    LOGS/process-N.log. Whatever ends one of them ends all, with a sentence and exit code:
    LOST where one did not come, was killed or hangs; 1 where they differ, or do not see the same
    directory.

    Args:
        job: From `find`.
        logs: A directory in what all processes share; made if need be.
        facts: What must be the same in all, from `agreement.facts`.
        place: How sentences call what is shared, such as '--workdir=runs/sft'.
        timeout: Seconds within which a missing or silent process is named.
        program: Begins the sentences.
        stopped: The exit code of all after Ctrl-C in one.
        may_part: Whether each process can do without a directory that all see.
    Yields:
        This process as one of the job; None for a process that is alone.
    Raises:
        ValueError: process 0 cannot have its port.
    """
    if job is None:
        yield None
        return
    watch = Watch(job, timeout, program)
    try:
        _call(watch)
        port, apart = _agree(watch, facts, logs, place, may_part)
        _start_jax(watch, port)
        if job.process:
            _log(watch, logs)
        yield Member(watch, apart)
        import jax

        jax.distributed.shutdown()  # waits for all
    except BaseException as error:
        code = stopped if isinstance(error, KeyboardInterrupt) else 1
        watch.fail(code, _told(error), _patience(error, timeout))
        # The usual end would have JAX wait for the others, which have left.
        atexit.register(_exit, code)
        raise
    watch.leave()


def _call(watch: Watch) -> None:
    """Connects to process 0, or waits there for the others."""
    job = watch.job
    # Perhaps an earlier start of the same job has the port, and still ends.
    patience = watch.timeout if job.process else watch.timeout / 3
    until = time.monotonic() + patience
    while True:
        try:
            if not job.process:
                watch.start(listen(job.address[1]))
                return
            connection = socket.create_connection(job.address, min(5.0, patience))
            break
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            if time.monotonic() < until:
                time.sleep(min(0.5, watch.timeout / 20))
            elif job.process:
                watch.end(
                    LOST,
                    f'{watch.name(0)} does not answer at {job.coordinator} within '
                    f'{watch.timeout:g} s ({reason}): see whether it runs, and whether it can be '
                    'reached there from here; --coordinator sets the place.',
                )
            else:
                raise ValueError(
                    f'--coordinator={job.coordinator}: process 0 cannot have that port here '
                    f'({reason}). Give another one to all, or, if two processes have --process=0, '
                    'each its own number.'
                ) from error
    watch.links[0] = link = Link(connection)
    link.send(process=job.process, processes=job.processes, host=watch.host)
    watch.start()


def _agree(
    watch: Watch, facts: Mapping[str, str], shared: Path, place: str, may_part: bool
) -> tuple[int, bool]:
    """Compares what all must have in common.

    Returns:
        JAX' port, and whether the directory is not one for all.
    """
    if watch.job.process:
        name = watch.meet('facts', dict(facts))[0]
        patience = min(SEEN_SOON if may_part else SEEN_WITHIN, watch.timeout / 2)
        return watch.meet('directory', _sees(shared / name, patience))[0]
    values = watch.meet('facts', dict(facts))
    names = {number: watch.name(number) for number in values}
    if sentence := difference(values, names):
        watch.end(1, sentence)
    # A name that nobody has looked for: network file systems remember for long what is not there.
    shared.mkdir(parents=True, exist_ok=True)
    sweep(shared)  # what a kill left
    token = shared / f'.{secrets.token_hex(8)}.partial'
    token.touch()
    try:
        watch.announce('facts', token.name)
        seen = watch.meet('directory', True)
    finally:
        token.unlink()
    blind = [names[number] for number, sees in seen.items() if not sees]
    if blind and not may_part:
        watch.end(
            1,
            f'{place} of {names[0]} is not what {blind[0]} has by that name: all processes work on '
            'the same files. Give a place that they share.',
        )
    with socket.socket() as probe:
        probe.bind(('', 0))
        port = probe.getsockname()[1]
    watch.announce('directory', (port, bool(blind)))
    return port, bool(blind)


def _sees(path: Path, patience: float) -> bool:
    until = time.monotonic() + patience
    while not path.exists():
        if time.monotonic() > until:
            return False
        time.sleep(0.1)
    return True


def _start_jax(watch: Watch, port: int) -> None:
    import jax

    job, here = watch.job, '127.0.0.1'
    near = detour(watch.links[0].socket.getpeername()[0], port) if job.process else port
    os.environ.update(no_grpc_proxy=here)  # proxies are for what is farther away
    jax.config.update('jax_check_proxy_envs', False)
    jax.config.update('jax_enable_preemption_service', False)  # see `stopping`
    late = int(4 * watch.timeout) + 60  # ours comes first
    jax.distributed.initialize(
        f'{here}:{near}',
        job.processes,
        job.process,
        job.devices,
        cluster_detection_method='deactivate',
        initialization_timeout=late,
        heartbeat_timeout_seconds=late,
        shutdown_timeout_seconds=late,
        coordinator_bind_address=f'[::]:{port}',
    )


def _log(watch: Watch, folder: Path) -> None:
    """Leads what this process prints to its file, also what libraries print in C++."""
    folder.mkdir(parents=True, exist_ok=True)
    name = folder / f'process-{watch.job.process}.log'
    file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    watch.console = os.dup(2)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    now = time.strftime('%Y-%m-%d %H:%M:%S')
    print(f'{now} {watch.name(watch.job.process)}, of {watch.job.processes} ({watch.job.by})')


def _told(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return 'stopped'
    text = disk.sentence(error) if isinstance(error, OSError) else str(error)
    kind = '' if isinstance(error, ValueError | OSError) else f'{type(error).__name__}: '
    return f'{kind}{text[:2000]}'


def _patience(error: BaseException, timeout: float) -> float:
    """How long another process may be the cause of an error: JAX' may be that of a lost one."""
    if isinstance(error, KeyboardInterrupt):
        return 0.0
    return timeout if type(error).__name__ == 'JaxRuntimeError' else 0.5


def _exit(code: int) -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(code)
