"""A process that is lost or wrong ends all, in time, with a sentence that names it."""

import signal
import socket
import time

import pytest

import job_member

TIMEOUT = 3.0
LOST = 75


class Members:
    """Processes of a job in one folder."""

    def __init__(self, folder, processes, **settings):
        self.folder, self.processes = folder, processes
        with socket.socket() as probe:
            probe.bind(('localhost', 0))
            coordinator = f'localhost:{probe.getsockname()[1]}'
        common = {'coordinator': coordinator, 'processes': processes, 'timeout': TIMEOUT}
        self.settings = common | settings
        self.running = {}

    def start(self, process, **settings):
        self.running[process] = job_member.start(self.folder, process, self.settings | settings)

    def wait_until_inside(self):
        end = time.monotonic() + 60
        while not all((self.folder / f'in-{n}').exists() for n in self.running):
            assert time.monotonic() < end
            time.sleep(0.01)

    def codes(self):
        return {n: process.wait(timeout=60) for n, process in self.running.items()}

    def said(self, process):
        """The last line on its standard error, or in its log."""
        log = self.folder / 'logs' / f'process-{process}.log'
        text = (self.folder / f'out-{process}').read_text() + (
            log.read_text() if log.exists() else ''
        )
        assert 'Traceback' not in text
        return text.strip().splitlines()[-1]


@pytest.fixture
def members(tmp_path):
    """Makes a job; what is left of it is killed."""
    made = []

    def make(processes, **settings):
        made.append(Members(tmp_path, processes, **settings))
        return made[-1]

    yield make
    for job in made:
        for process in job.running.values():
            process.kill()
            process.wait()


def test_all_leave_together_and_only_process_0_prints(members, tmp_path):
    job = members(3, act='end')
    for process in range(3):
        job.start(process)
    assert job.codes() == {0: 0, 1: 0, 2: 0}
    assert [(tmp_path / f'out-{n}').read_text() for n in range(3)] == ['inside\n', '', '']
    assert [job.said(n) for n in range(3)] == ['inside'] * 3
    assert not list(tmp_path.glob('.*')), 'the file that showed the directory to be shared'


@pytest.mark.parametrize(
    ('number', 'how'),
    [(1, signal.SIGKILL), (1, signal.SIGSTOP), (0, signal.SIGKILL), (0, signal.SIGSTOP)],
)
def test_one_that_is_killed_or_stopped_is_named(members, number, how):
    job = members(3)
    for process in range(3):
        job.start(process)
    job.wait_until_inside()
    begun = time.monotonic()
    lost = job.running[number]
    lost.send_signal(how)
    others = [n for n in job.running if n != number]
    assert [job.running[n].wait(timeout=60) for n in others] == [LOST, LOST]
    assert time.monotonic() - begun < TIMEOUT + 1, 'the time that is set, and a busy machine'
    words = (
        'was lost: its connection closed' if how == signal.SIGKILL else 'has not been heard from'
    )
    begins = f'member: process {number} on {socket.gethostname()} {words}'
    assert all(job.said(n).startswith(begins) for n in others)
    lost.send_signal(signal.SIGCONT)  # one that is stopped goes on when the others have left
    assert lost.wait(timeout=60) == (LOST if how == signal.SIGSTOP else -signal.SIGKILL)


def test_one_that_does_not_come_is_named_with_the_machine_that_it_was_to_be_on(members):
    job = members(3, hosts=['n1', 'n2', 'n3'])
    job.start(0)
    job.start(1)
    assert job.codes() == {0: LOST, 1: LOST}
    for process in range(2):
        assert job.said(process).startswith('member: process 2 (n3) did not come within 3 s')


def test_a_coordinator_that_does_not_answer_is_named(members):
    job = members(2, timeout=1.0)
    job.start(1)
    assert job.codes() == {1: LOST}
    assert job.said(1).startswith('member: process 0 does not answer at localhost:')
    assert '(connection refused)' in job.said(1)


def test_one_that_listens_and_says_nothing_is_given_up(members):
    with socket.create_server(('127.0.0.1', 0)) as silent:
        address = f'127.0.0.1:{silent.getsockname()[1]}'
        job = members(2, timeout=1.0, coordinator=address)
        job.start(1)
        assert job.codes() == {1: LOST}
    assert job.said(1).startswith('member: process 0 has not been heard from for 1 s')


def test_a_mistake_of_one_ends_all_with_its_sentence(members):
    job = members(3)
    for process in range(3):
        job.start(process, act='fail' if process == 1 else 'wait')
    assert job.codes() == {0: 1, 1: 1, 2: 1}
    assert job.said(1).endswith(': rows.jsonl is missing here.')
    host = socket.gethostname()
    for process in (0, 2):
        assert job.said(process) == f'member: process 1 on {host}: rows.jsonl is missing here.'


def test_a_mistake_of_all_is_said_once_by_each(members, tmp_path):
    job = members(2, act='fail')
    job.start(0)
    job.start(1)
    assert job.codes() == {0: 1, 1: 1}
    text = (tmp_path / 'out-0').read_text()
    assert text.count('rows.jsonl') == 1 and job.said(0).endswith(': rows.jsonl is missing here.')


def test_processes_with_another_configuration_are_refused_by_its_field(members):
    job = members(2)
    job.start(0, facts={'--config.seed': '1', 'version of jax': '0.10.2'})
    job.start(1, facts={'--config.seed': '2', 'version of jax': '0.10.2'})
    assert job.codes() == {0: 1, 1: 1}
    host = socket.gethostname()
    sentence = (
        f'process 1 on {host} has another --config.seed than process 0 on {host}: 2 and not 1'
    )
    assert all(sentence in job.said(n) for n in range(2))


def test_a_directory_that_is_not_shared_is_refused(members, tmp_path):
    job = members(2)
    (tmp_path / 'other').mkdir()
    job.start(0)
    job.start(1, workdir=str(tmp_path / 'other'))
    assert job.codes() == {0: 1, 1: 1}
    assert all(f'--workdir={tmp_path} of process 0' in job.said(n) for n in range(2))


def test_numbers_that_do_not_fit_each_other_are_refused(members):
    job = members(3)
    job.start(0)
    job.start(2, processes=4)
    assert job.codes() == {0: 1, 2: 1}
    assert all('calls itself process 2 of 4' in job.said(n) for n in (0, 2))


def test_strangers_at_the_port_are_left_alone(members):
    job = members(2, act='end')
    job.start(0)
    host, port = job.settings['coordinator'].split(':')
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            with socket.create_connection((host, int(port))) as stranger:
                stranger.sendall(b'GET / HTTP/1.1\r\n\r\n{"process": "x"}\n[1]\n')
            break
        except ConnectionRefusedError:
            time.sleep(0.05)
    job.start(1)
    assert job.codes() == {0: 0, 1: 0}
