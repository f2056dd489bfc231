"""The journal: what it keeps, whom it refuses, and that its lock ends with the process."""

import asyncio
import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from belle_jax.api import Journal, Reply, Request

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = {'model': 'small', 'seed': 3, 'kind': 'math'}


def request(index, text='你好'):
    messages = [{'role': 'user', 'content': f'{text}{index}'}]
    return Request(index, {'model': 'small', 'messages': messages, 'temperature': 0.7})


def reply(index, text='答', error=''):
    return Reply(
        index,
        '' if error else text,
        None if error else 'stop',
        10 + index,
        5,
        0.25,
        error,
        sent={'max_tokens': 8},
        usage={'total_tokens': 15 + index, 'details': {'cached': 1}},
        attempts=2,
        seconds=1.5,
    )


def test_the_key_is_of_index_and_body_whatever_the_order_of_fields():
    body = {'a': [1, {'b': '好'}], 'c': 0.5}
    same = {'c': 0.5, 'a': [1, {'b': '好'}]}
    # The digest of [7,{"a":[1,{"b":"\\u597d"}],"c":0.5}], as any SHA-256 program gives it.
    digest = subprocess.run(
        ['sha256sum'], input=b'[7,{"a":[1,{"b":"\\u597d"}],"c":0.5}]', capture_output=True
    ).stdout[:64]
    assert Request(7, body).key() == Request(7, same).key() == digest.decode()
    assert len({Request(7, body).key(), Request(8, body).key(), Request(7, {}).key()}) == 3


def test_replies_come_back_as_they_were(tmp_path):
    odd = Request(5, {'prompt': 'a\x00b\ud83d', 'x': [1, None, True]})
    with Journal(tmp_path / 'j.sqlite', SETTINGS) as journal:
        assert journal.get(request(3)) is None and len(journal) == 0
        journal.put(request(3), reply(3, '“引号”\n\x00' * 3)).result()
        journal.put(odd, reply(5)).result()
        assert journal.get(request(3)) == reply(3, '“引号”\n\x00' * 3)
    with Journal(tmp_path / 'j.sqlite', SETTINGS) as journal:
        kept = journal.get(request(3))
        assert kept and kept == reply(3, '“引号”\n\x00' * 3)
        assert (kept.sent, kept.attempts, kept.seconds) == ({'max_tokens': 8}, 2, 1.5)
        assert kept.usage == {'total_tokens': 18, 'details': {'cached': 1}}
        assert journal.get(request(3, '再见')) is None and journal.get(request(4)) is None
        assert [asked for asked, _ in journal.entries()] == [request(3), odd]
        assert len(journal) == 2 and journal.settings == SETTINGS


def test_a_given_up_request_is_asked_again_and_stays_paid_for(tmp_path):
    with Journal(tmp_path / 'j', SETTINGS) as journal:
        for number in (4, 1, 2):
            journal.put(request(number), reply(number, error='500'))
        journal.put(request(0), reply(0)).result()
        assert journal.get(request(1)) is None and len(journal) == 1
    with Journal(tmp_path / 'j', SETTINGS) as journal:
        journal.put(request(1), reply(1, '好')).result()
        journal.put(request(2), reply(2, error='time-out')).result()
        assert journal.get(request(1)) == reply(1, '好')
        # In the order of the index; the answer, or else the last failure.
        assert [(r.index, r.text, r.error) for r in journal.replies()] == [
            (0, '答', ''), (1, '好', ''), (2, '', 'time-out'), (4, '', '500'),
        ]  # fmt: skip
        assert len(journal) == 2
        spent = journal.spent()
        assert spent == (10 + 11 + 12 + 14 + 11 + 12, 30, 1.5) and spent.tokens == 100
    with Journal(tmp_path / 'j', SETTINGS) as journal:
        assert journal.spent() == spent and len(journal) == 2


def test_many_replies_are_read_in_order_while_others_are_written(tmp_path):
    with Journal(tmp_path / 'j', SETTINGS) as journal:
        for number in range(1999, -1, -1):
            journal.put(request(number), reply(number))
        journal.put(request(5000), reply(5000)).result()
        seen = []
        for kept in journal.replies():
            seen.append(kept.index)
            if kept.index == 10:
                journal.put(request(6000), reply(6000)).result()
        assert seen[:2001] == [*range(2000), 5000]


def test_other_settings_are_refused_by_name(tmp_path):
    path = tmp_path / 'j'
    with Journal(path, SETTINGS) as journal:
        journal.put(request(0), reply(0))
    for other, sentence in (
        (SETTINGS | {'seed': 4}, 'begun with seed = 3, and this run has seed = 4.*Set seed'),
        (SETTINGS | {'top_p': 1}, 'begun with top_p = nothing, and this run has top_p = 1'),
        ({'model': 'small', 'seed': 3}, 'kind = "math", and this run has kind = nothing'),
        (SETTINGS | {'model': '大' * 900}, 'model = "small", and this run has model = "大.*[.]{3}'),
    ):
        with pytest.raises(ValueError, match=sentence):
            Journal(path, other)
    # The order of fields is none of its business, nor is a tuple instead of a list.
    with Journal(path, dict(reversed(SETTINGS.items()))) as journal:
        assert len(journal) == 1
    with Journal(tmp_path / 'k', {'stop': ('a', 'b')}):
        pass
    with Journal(tmp_path / 'k', {'stop': ['a', 'b']}):
        pass


def test_an_existing_journal_opens_with_its_own_settings(tmp_path):
    with pytest.raises(FileNotFoundError, match='there is no journal'):
        Journal(tmp_path / 'j')
    Journal(tmp_path / 'j', SETTINGS).close()
    with Journal(tmp_path / 'j') as journal:
        assert journal.settings == SETTINGS


def test_another_file_is_not_taken_for_a_journal(tmp_path):
    text = tmp_path / 'seeds.jsonl'
    text.write_text('{"instruction": "写一首诗"}\n' * 99)
    before = text.read_bytes()
    with pytest.raises(ValueError, match=r'seeds.jsonl is not a journal.*new file'):
        Journal(text, SETTINGS)
    assert text.read_bytes() == before
    other = tmp_path / 'cookies.sqlite'
    with sqlite3.connect(other) as db:
        db.execute('CREATE TABLE cookies (name TEXT)')
    db.close()
    before = other.read_bytes()
    with pytest.raises(ValueError, match=r'cookies.sqlite is a database, but no journal'):
        Journal(other, SETTINGS)
    assert other.read_bytes() == before
    with pytest.raises(OSError, match='cannot be opened as a journal'):
        Journal(tmp_path, SETTINGS)
    with pytest.raises(FileNotFoundError, match='folder .*none does not exist; make it first'):
        Journal(tmp_path / 'none' / 'j', SETTINGS)
    Journal(tmp_path / 'j', SETTINGS).close()
    with sqlite3.connect(tmp_path / 'j') as db:
        db.execute('PRAGMA user_version = 9')
    db.close()
    with pytest.raises(ValueError, match='journal of version 9, and this program writes version 2'):
        Journal(tmp_path / 'j', SETTINGS)


def test_a_damaged_journal_is_named(tmp_path):
    with Journal(tmp_path / 'j', SETTINGS) as journal:
        for number in range(200):
            journal.put(request(number), reply(number))
    content = (tmp_path / 'j').read_bytes()
    (tmp_path / 'j').write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match='is not a journal, or it is damaged'):
        Journal(tmp_path / 'j', SETTINGS)


def test_a_disk_that_is_full_fails_the_reply_and_keeps_what_was_there(tmp_path):
    script = f"""
import resource, signal, sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / 'tests' / 'api')!r}, {str(ROOT / 'tests/support')!r}]
from test_journal import SETTINGS, Journal, reply, request
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
journal = Journal({str(tmp_path / 'j')!r}, SETTINGS)
journal.put(request(0), reply(0)).result()
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
for number in range(1, 99):
    try:
        journal.put(request(number), reply(number, 'x' * 9000)).result()
    except OSError as error:
        print(number, error)
        break
assert journal.get(request(number)) is None and len(journal) == number
"""
    environment = os.environ | {'JAX_PLATFORMS': 'cpu'}
    ran = subprocess.run(
        [sys.executable, '-c', script], capture_output=True, text=True, env=environment
    )
    assert ran.returncode == 0, ran.stderr
    assert 'cannot be written' in ran.stdout
    failed = int(ran.stdout.split()[0])
    with Journal(tmp_path / 'j', SETTINGS) as journal:
        assert [kept.index for kept in journal.replies()] == list(range(failed))


HOLD = """
import sys
sys.path[:0] = [sys.argv[1]]
from belle_jax.api import Journal, Reply, Request
try:
    journal = Journal(sys.argv[2], {'a': 1})
except ValueError as error:
    sys.exit(str(error))
journal.put(Request(0, {'prompt': ''}), Reply(0, 'kept', 'stop', 1, 1, 0.0)).result()
print('open', flush=True)
sys.stdin.read()
"""


def hold(path):
    command = [sys.executable, '-c', HOLD, str(ROOT), str(path)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True)


def test_a_second_run_is_refused_until_the_first_has_ended_however(tmp_path):
    path = tmp_path / 'j'
    first = hold(path)
    assert first.stdout and first.stdout.readline() == 'open\n'
    with pytest.raises(ValueError, match='another run is using .*/j, .* one run at a time: wait'):
        Journal(path, {'a': 1})
    with pytest.raises(ValueError, match='another run is using'):
        Journal(path)
    first.send_signal(signal.SIGKILL)
    # The lock is gone with the process, what it wrote is there.
    with Journal(path, {'a': 1}) as journal:
        assert [kept.text for kept in journal.replies()] == ['kept']
        # In one process as well.
        with pytest.raises(ValueError, match='another run is using'):
            Journal(path, {'a': 1})
    first.communicate()


def test_of_several_that_start_at_once_one_gets_the_journal(tmp_path):
    runs = [hold(tmp_path / 'j') for _ in range(4)]
    # The losers end by themselves; the winner stays until its input ends.
    lines = [run.stdout.readline() if run.stdout else '' for run in runs]
    assert sorted(lines) == ['', '', '', 'open\n']
    for run, line in zip(runs, lines):
        _, error = run.communicate()
        assert run.returncode == (0 if line else 1)
        assert bool(line) != ('another run is using' in error)


def test_a_closed_journal_takes_nothing(tmp_path):
    journal = Journal(tmp_path / 'j', SETTINGS)
    done = journal.put(request(0), reply(0))
    journal.close()
    journal.close()
    assert done.done()
    with pytest.raises(ValueError, match='closed'):
        journal.put(request(1), reply(1))
    # What is in the file can be read by anything that reads SQLite.
    with sqlite3.connect(tmp_path / 'j') as db:
        ((index, text, body),) = db.execute('SELECT "index", text, request FROM replies')
    db.close()
    assert (index, text, json.loads(body)) == (0, '答', request(0).body)
    assert list(tmp_path.iterdir()) == [tmp_path / 'j']


def test_what_was_under_way_at_a_kill_is_kept_apart_with_the_most_that_it_may_take(tmp_path):
    async def fly(journal):
        answered, withdrawn, lost = (journal.flight(request(n), 100 + n, 0.5) for n in range(3))
        for flight in (answered, withdrawn, lost):
            await flight.begin()
        withdrawn.withdraw()
        await asyncio.wrap_future(journal.put(request(0), reply(0), answered))

    for runs in (1, 2):
        with Journal(tmp_path / 'j', SETTINGS) as journal:
            assert journal.lost == ((0, 0, 0.0) if runs == 1 else (1, 102, 0.5))
            asyncio.run(fly(journal))
    with Journal(tmp_path / 'j') as journal:
        # Of both runs; what was paid for is counted as before.
        assert journal.lost == (2, 204, 1.0) and journal.spent() == (20, 10, 0.5)


def flip(path, old, new):
    """Changes some bytes of a database; they must be there once."""
    content = path.read_bytes()
    assert content.count(old) == 1, content.count(old)
    path.write_bytes(content.replace(old, new))


FLIPS = {
    'of the answer': ('第3个答'.encode(), '第8个答'.encode()),
    'so that it is no text': ('第3个答'.encode(), '第3'.encode() + b'\xff' + '个答'.encode()[1:]),
    'of the prompt': ('你好3'.encode(), '你好8'.encode()),
    'of the usage': (b'"total_tokens": 18', b'"total_tokens": 98'),
    'of JSON': (b'{"details": {"cached": 1}, "total_tokens": 18', b'[' * 45),
}


@pytest.mark.parametrize('where', FLIPS)
def test_a_row_that_is_not_what_was_written_is_asked_again(tmp_path, where):
    path = tmp_path / 'j'
    with Journal(path, SETTINGS) as journal:
        for n in range(6):
            journal.put(request(n), reply(n, f'第{n}个答')).result()
    flip(path, *FLIPS[where])
    with Journal(path, SETTINGS) as journal:
        assert [r.index for r in journal.replies()] == [0, 1, 2, 4, 5]
        assert journal.get(request(3)) is None and journal.get(request(4)) == reply(4, '第4个答')
        assert journal.damaged == 1 and journal.spent().cost_usd == 6 * 0.25
        journal.put(request(3), reply(3, '再答')).result()
    with Journal(path, SETTINGS) as journal:
        assert [r.text for r in journal.replies()][2:5] == ['第2个答', '再答', '第4个答']
        assert journal.get(request(3)) == reply(3, '再答') and journal.damaged == 1


VERSION_1 = """
    CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL);
    CREATE TABLE replies (
        id INTEGER PRIMARY KEY, "index" INTEGER NOT NULL, key TEXT NOT NULL, request TEXT NOT NULL,
        sent TEXT, text TEXT NOT NULL, finish_reason TEXT, prompt_tokens INTEGER NOT NULL,
        completion_tokens INTEGER NOT NULL, cost_usd REAL NOT NULL, usage TEXT NOT NULL,
        error TEXT NOT NULL, attempts INTEGER NOT NULL, seconds REAL NOT NULL, time REAL NOT NULL
    );
    CREATE INDEX keys ON replies (key);
    CREATE INDEX indices ON replies ("index");
    PRAGMA application_id = 1111837770;
    PRAGMA user_version = 1;
"""


def test_a_journal_of_the_first_version_goes_on(tmp_path):
    path = tmp_path / 'j'
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript(VERSION_1)
        db.executemany(
            'INSERT INTO settings VALUES (?, ?)', [(k, json.dumps(v)) for k, v in SETTINGS.items()]
        )
        for n, text in enumerate(('答', '<think>想一想</think>\n\n答', '谈谈<think>标签')):
            asked = request(n)
            row = (n, asked.key(), json.dumps(asked.body), text, 'stop', 10 + n, 5, 0.25, '{}', '')
            db.execute(
                """INSERT INTO replies ("index", key, request, text, finish_reason, prompt_tokens,
                completion_tokens, cost_usd, usage, error, attempts, seconds, time)
                VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1, 0.5, 0)""",
                row,
            )
        db.commit()
    for _ in range(2):
        with Journal(path, SETTINGS) as journal:
            kept = list(journal.replies())
            # What a model thought was kept with its answer then.
            assert [r.text for r in kept] == ['答', '答', '谈谈<think>标签']
            assert [r.thoughts for r in kept] == ['', '想一想', '']
            assert journal.get(request(2)) == kept[2] and len(journal) == 3
            assert journal.spent() == (33, 15, 0.75) and journal.damaged == 0
