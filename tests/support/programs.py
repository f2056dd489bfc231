"""Programs of this project without their start: forked from a process that has the libraries.

Importing JAX and what stands on it takes seconds of a processor, the rest of most programs less.
So one process imports them, once for all tests of a session, and each program is a fork of it, with
arguments, environment, working directory, streams and exit code of its own, as `python -m` gives.
"""

import io
import multiprocessing
import os
import resource
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# The second group is what programs import where they need it.
LIBRARIES = [
    'belle_jax.training.loop',
    'belle_jax.decoding',
    'belle_jax.runs.conversion',
    *('tensorboardX', 'matplotlib.pyplot', 'grain.python', 'openai', 'scipy.stats', 'rapidfuzz'),
    *('sentencepiece', 'transformers.models.auto.tokenization_auto'),
    'transformers.models.llama.configuration_llama',
]

_context = multiprocessing.get_context('forkserver')


class Program:
    """A program that runs; the interface is that of subprocess.Popen, as far as tests use it."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        env: Mapping[str, str],
        stdin: Path | None = None,
        stdout: Path,
        stderr: Path | None = None,
        file_limit: int | None = None,
        armed: tuple[str, str, int] | None = None,
    ) -> None:
        """Starts it.

        Args:
            command: python -m MODULE FLAGS; whatever stands for python is not looked at.
            cwd: Its working directory.
            env: Its whole environment, of which JAX' settings must be those of this process.
            stdin: A file that it reads; by default there is nothing to read.
            stdout: A file that its output is added to.
            stderr: Likewise for standard error; by default the same.
            file_limit: Bytes that any file may grow to, as on a disk that is full.
            armed: What `kills.arm` gets, for a program that is to kill itself.
        """
        assert command[1] == '-m', command
        _context.set_forkserver_preload(LIBRARIES)
        before = dict(os.environ)
        os.environ.update(JAX_PLATFORMS='cpu', PYTHONPATH=str(ROOT))  # if this starts the server
        try:
            streams = [str(stdin or os.devnull), str(stdout), str(stderr or '')]
            arguments = (list(command[2:]), str(cwd), dict(env), streams, file_limit, armed)
            self._process = _context.Process(target=_run, args=arguments)
            self._process.start()
        finally:
            os.environ.clear()
            os.environ.update(before)

    @property
    def returncode(self) -> int | None:
        """As Popen's."""
        return self._process.exitcode

    def poll(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """Waits for the end; returns the exit code."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired('program', timeout or 0.0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        """As Popen's."""
        if self._process.exitcode is None and self._process.pid:
            os.kill(self._process.pid, number)

    def kill(self) -> None:
        """As Popen's."""
        self.send_signal(signal.SIGKILL)


class Heard(Program):
    """A program whose output is kept, as subprocess.Popen keeps that of pipes."""

    def __init__(self, command: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> None:
        """Starts it; the arguments are those of `Program`."""
        folder = Path(tempfile.mkdtemp())
        weakref.finalize(self, shutil.rmtree, folder)
        self._said = [folder / name for name in ('stdout', 'stderr')]
        super().__init__(command, cwd=cwd, env=env, stdout=self._said[0], stderr=self._said[1])

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Waits for the end; returns what was written to standard output and standard error."""
        self.wait(timeout)
        output, errors = (path.read_text('utf-8') if path.exists() else '' for path in self._said)
        return output, errors


def run(
    command: Sequence[str], *, cwd: Path, env: Mapping[str, str], input: str = '', timeout: float
) -> subprocess.CompletedProcess[str]:
    """A whole run, as subprocess.run(…, capture_output=True, text=True) gives it."""
    with tempfile.TemporaryDirectory() as folder:
        stdin, stdout, stderr = (Path(folder) / name for name in ('stdin', 'stdout', 'stderr'))
        stdin.write_text(input, 'utf-8')
        program = Program(command, cwd=cwd, env=env, stdin=stdin, stdout=stdout, stderr=stderr)
        try:
            code = program.wait(timeout)
        finally:
            program.kill()
        said = [path.read_text('utf-8') for path in (stdout, stderr)]
    return subprocess.CompletedProcess(command, code, *said)


def job(processes: int) -> list[list[str]]:
    """Flags for each process of a job on this machine."""
    with socket.socket() as probe:
        probe.bind(('localhost', 0))
        port = probe.getsockname()[1]
    same = [f'--coordinator=localhost:{port}', f'--processes={processes}', '--cluster_timeout=60']
    return [[*same, f'--process={n}'] for n in range(processes)]


def _run(
    words: list[str],
    cwd: str,
    env: dict[str, str],
    streams: list[str],
    file_limit: int | None,
    armed: tuple[str, str, int] | None,
) -> None:
    """In the fork: becomes the program."""
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    for number, name in enumerate(streams):
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND if number else os.O_RDONLY
        opened = os.open(name, flags) if name else os.dup(1)
        os.dup2(opened, number)
        os.close(opened)
    sys.stdin = io.TextIOWrapper(io.FileIO(0, closefd=False), encoding='utf-8')
    if file_limit is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then writing fails with an error instead
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
    if armed:
        from kills import arm  # which starts programs itself

        arm(*armed)
    sys.argv = list(words)
    sys.path[:0] = ['']
    runpy.run_module(words[0], run_name='__main__', alter_sys=True)
