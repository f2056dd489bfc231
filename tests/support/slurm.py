"""A real Slurm of two nodes on this machine: authentication, controller and two node daemons.

Each node is a process namespace whose first process is its daemon; when that is killed, everything
on the node dies with it and at once, as when a machine loses its power.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PROGRAMS = ('munged', 'slurmctld', 'slurmd', 'sbatch', 'unshare')
NAMESPACE = ('unshare', '--pid', '--fork', '--mount-proc', '--kill-child')
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# How long a job that is queued again has to wait: 120 seconds elsewhere, and this is the least.
AuthInfo=socket={folder}/munge,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
SchedulerParameters=sched_interval=1,batch_sched_delay=0
SlurmdTimeout=10
KillWait=15
# The port on which a job's processes meet follows from its number: another cluster's is another.
FirstJobId={ports[0]}
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmdPidFile={folder}/%n.pid
SlurmctldPidFile={folder}/controller.pid
NodeName={nodes[0]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1
NodeName={nodes[1]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1
PartitionName=all Nodes=ALL Default=YES
"""


def missing() -> str | None:
    """Why there can be no cluster here, in a sentence; None if there can."""
    absent = [name for name in PROGRAMS if not _find(name)]
    if absent:
        return f'no {", ".join(absent)} here (Debian: apt-get install slurm-wlm munge)'
    if os.getuid() != 0:
        return 'the daemons of Slurm need root'
    if subprocess.run([*NAMESPACE, 'true'], capture_output=True, check=False).returncode:
        return 'this machine does not let processes have a namespace of their own'
    return None


class Cluster:
    """Two nodes, `nodes`; `log` of a job is where its script and its processes print."""

    def __init__(self, folder: Path) -> None:
        """Writes its configuration.

        Args:
            folder: An empty one for what the daemons write.
        """
        self.folder = folder
        host = socket.gethostname().split('.')[0]
        # Process 0 is found by the name of its node, so that must be a name of this machine.
        self.nodes = (host, f'{host}-2')
        text = CONFIGURATION.format(host=host, nodes=self.nodes, folder=folder, ports=_free(3))
        (folder / 'slurm.conf').write_text(text)
        (folder / 'key').write_bytes(os.urandom(1024))
        (folder / 'key').chmod(0o400)
        self.environment = os.environ | {
            'SLURM_CONF': str(folder / 'slurm.conf'),
            'PATH': os.pathsep.join([os.environ.get('PATH', ''), '/usr/sbin', '/sbin']),
            'PYTHON': sys.executable,
            'PYTHONPATH': str(ROOT),
            'JAX_PLATFORMS': 'cpu',
        }
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def start(self) -> None:
        """Starts the daemons and waits until both nodes take jobs."""
        names = {'key-file': 'key', 'socket': 'munge', 'pid-file': 'munge.pid'}
        names |= {'seed-file': 'munge.seed', 'log-file': 'munge.log'}
        flags = [f'--{flag}={self.folder / name}' for flag, name in names.items()]
        self._start('munged', ['munged', '--foreground', '--force', *flags])
        self.wait((self.folder / 'munge').exists, 'the socket of munge')
        self._start('slurmctld', ['slurmctld', '-D', '-c'])
        for node in self.nodes:
            self.bring(node)
        self.wait(lambda: self.run('sinfo', '-h', '-o', '%T') == 'idle', 'two idle nodes')

    def stop(self) -> None:
        """Ends all daemons, and with its node each process of a job."""
        for name in reversed(self._daemons):
            self._daemons[name].kill()
            self._daemons[name].wait()

    def run(self, *command: str) -> str:
        """What one of Slurm's commands prints."""
        done = subprocess.run(
            command, env=self.environment, cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f'{command}: {done.stderr}'
        return done.stdout.strip()

    def submit(self, log: Path, *words: str) -> str:
        """sbatch launch/slurm.sbatch WORDS on both nodes; returns the job's number."""
        script = 'launch/slurm.sbatch'
        return self.run('sbatch', '--parsable', '--nodes=2', f'--output={log}', script, *words)

    def state(self, job: str) -> str:
        """PENDING, RUNNING, COMPLETING, COMPLETED, FAILED, CANCELLED, ..."""
        told = self.run('scontrol', 'show', 'job', job)
        (state,) = re.findall(r'JobState=(\w+)', told)
        return state

    def restarts(self, job: str) -> int:
        """How often the job was queued again."""
        (count,) = re.findall(r'Restarts=(\d+)', self.run('scontrol', 'show', 'job', job))
        return int(count)

    def wait_for(self, job: str, *states: str, log: Path, timeout: float = 300.0) -> str:
        """Waits until a job is in one of the states, and returns it; shows the log if it is not."""
        what = f'job {job} being {" or ".join(states)}'
        self.wait(lambda: self.state(job) in states, what, log, timeout)
        return self.state(job)

    def wait(
        self,
        condition: Callable[[], bool],
        what: str,
        log: Path | None = None,
        timeout: float = 60.0,
    ) -> None:
        """Waits for a condition.

        Args:
            condition: Asked ten times a second.
            what: What is waited for, if it never comes.
            log: Whose end is then told.
            timeout: Seconds.
        """
        end = time.monotonic() + timeout
        while not condition():
            if time.monotonic() > end:
                told = log.read_text()[-3000:] if log and log.exists() else self.told()
                raise AssertionError(f'{what} did not come in {timeout:.0f} seconds:\n{told}')
            time.sleep(0.1)

    def told(self) -> str:
        """The ends of all that the daemons said."""
        return '\n'.join(f'{p}: {p.read_text()[-1000:]}' for p in self.folder.glob('*.said'))

    def bring(self, node: str) -> None:
        """Starts a node."""
        self._start(node, [*NAMESPACE, _find('slurmd') or 'slurmd', '-D', '-N', node])

    def lose(self, node: str) -> None:
        """A node loses its power."""
        self._daemons[node].kill()
        self._daemons[node].wait()

    def kill_training(self, node: str) -> None:
        """kill -9 to the process that trains on a node, which itself goes on."""
        ours = {f'SLURM_CONF={self.environment["SLURM_CONF"]}', f'SLURMD_NODENAME={node}'}
        killed = 0
        for process in Path('/proc').glob('[0-9]*'):
            with contextlib.suppress(OSError):
                words = (process / 'cmdline').read_text().split('\0')
                environment = (process / 'environ').read_text(errors='replace').split('\0')
                if words[1:3] == ['-m', 'belle_jax.train'] and ours <= set(environment):
                    os.kill(int(process.name), signal.SIGKILL)
                    killed += 1
        assert killed == 1, f'{killed} processes train on {node}'

    def _start(self, name: str, command: list[str]) -> None:
        with open(self.folder / f'{name}.said', 'ab') as said:
            self._daemons[name] = subprocess.Popen(
                command, env=self.environment, stdin=subprocess.DEVNULL, stdout=said, stderr=said
            )


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """A cluster for the time of the block."""
    one = Cluster(folder)
    try:
        one.start()
        yield one
    finally:
        one.stop()


def _find(name: str) -> str | None:
    return shutil.which(name) or shutil.which(name, path='/usr/sbin:/sbin')


def _free(count: int) -> list[int]:
    """Ports that nobody listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(('127.0.0.1', 0))
        return [one.getsockname()[1] for one in sockets]
