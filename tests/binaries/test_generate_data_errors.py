"""What ends a run of generate_data early: one sentence each, and the journal stays as it was."""

import json
import signal
import socket
import time

import pytest

from api_runs import ROOT
from generate_runs import KEY, finish, journaled, run, serving, start

pytestmark = pytest.mark.slow
CHAT = ['--api=chat', '--model_name=test']
SEED = {'instruction': '说说春天。', 'instances': [{'input': '', 'output': '春暖花开。'}]}


def sentence(process):
    """What a run that a mistake ends says on standard error: one line, and no traceback."""
    _, errors = finish(process, code=1)
    assert errors.startswith('belle_jax.generate_data: ') and errors.count('\n') == 1, errors
    return errors


def closed_port():
    """An address of this machine where nobody listens."""
    with socket.socket() as found:
        found.bind(('127.0.0.1', 0))
        return f'http://127.0.0.1:{found.getsockname()[1]}/v1'


def test_a_mistake_is_told_in_a_sentence_before_anything_is_asked(tmp_path):
    def file(name, *rows):
        path = tmp_path / name
        lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
        path.write_text(''.join(f'{line}\n' for line in lines))
        return path

    broken = file('broken.jsonl', SEED, '{"instruction": "说说', SEED)
    alone = file('alone.jsonl', SEED)
    silent = file('silent.json', {'instruction': '说说春天。'}, {'title': '春天'})
    there = file('there.json', '[]')
    mistakes = {
        'no key for https://api.openai.com/v1: set the variable OPENAI_API_KEY': ['--base_url='],
        "'localhost:8000' is not an address like http://localhost:8000/v1": [
            '--base_url=localhost:8000'
        ],
        'broken.jsonl:2: broken JSON': [f'--seeds={broken}'],
        'alone.jsonl holds one seed task alone': [f'--seeds={alone}'],
        'name a file of English ones with --seeds': ['--language=en'],
        'there.json cannot be made (file exists): look at': [f'--output={there}/rows.json'],
        'there.json is there already, and no journal': [f'--output={there}'],
        'rows.journal.sqlite is not there: --rebuild makes rows again': ['--rebuild'],
        "no filter 'no such' to switch off: this kind has needs a medium": ['--without=no such'],
        'a budget of 2 USD needs to know what the model costs': ['--budget_usd=2'],
        'silent.json:2: no question is found in the fields title': [
            '--kind=label', f'--rows={silent}',
        ],
    }  # fmt: skip
    all_but_one = [f'--output={tmp_path}/rows.json', f'--base_url={closed_port()}', *CHAT]
    # No more at a time than finish soon.
    waiting = list(mistakes.items())
    while waiting:
        batch, waiting = waiting[:4], waiting[4:]
        runs = [(said, start(*all_but_one, *flags, key=None)) for said, flags in batch]
        for said, process in runs:
            errors = sentence(process)
            assert said in errors, errors
    names = {'broken.jsonl', 'alone.jsonl', 'silent.json', 'there.json'}
    assert {path.name for path in tmp_path.iterdir()} - names <= {'rows.journal.sqlite'}
    assert there.read_text() == '[]\n'


def test_nothing_that_goes_wrong_later_harms_journal_or_rows(tmp_path):
    journal, output = tmp_path / 'rows.journal.sqlite', tmp_path / 'rows.json'
    flags = [f'--output={output}', '--concurrency=8', *CHAT]
    with serving() as server:
        run(*flags, '--count=30', f'--base_url={server.url}')
    replies, rows = journaled(journal), json.loads(output.read_text('utf-8'))
    more = [*flags, '--count=60']

    def harmed():
        now = json.loads(output.read_text('utf-8'))
        return journaled(journal) != replies or now[: len(rows)] != rows

    with serving(key='sk-another') as server:
        errors = sentence(start(*more, f'--base_url={server.url}'))
    assert 'does not accept the key: check the variable OPENAI_API_KEY (401)' in errors
    assert not harmed()

    errors = sentence(start(*more, f'--base_url={closed_port()}', '--patience=0.5'))
    assert 'has not answered for' in errors and 'check the address' in errors and not harmed()

    url = f'--base_url={closed_port()}'
    for changed, said in (
        ('--seed=1', 'was begun with seed = 0, and this run has seed = 1'),
        ('--kind=math', 'was begun with kind = "self_instruct", and this run has kind = "math"'),
    ):
        errors = sentence(start(*more, url, changed))
        assert said in errors and 'a journal of its own' in errors and not harmed()

    with serving() as server:
        run(*more, f'--base_url={server.url}')
        assert journaled(journal)[: len(replies)] == replies
        assert len(server.log) == len(journaled(journal)) - len(replies)
    assert json.loads(output.read_text('utf-8'))[: len(rows)] == rows


def test_a_second_run_over_a_journal_is_refused(tmp_path):
    flags = [f'--output={tmp_path}/rows.json', '--count=50', *CHAT]
    with serving(delay=30) as server:
        first = start(*flags, f'--base_url={server.url}')
        while not server.log:
            time.sleep(0.01)
        errors = sentence(start(*flags, '--rebuild'))
        assert 'another run is using' in errors and 'rows.journal.sqlite' in errors
        first.send_signal(signal.SIGKILL)
        first.communicate()
    with serving() as server:
        run(*flags, f'--base_url={server.url}')
    assert len(json.loads((tmp_path / 'rows.json').read_text('utf-8'))) == 50
    assert not list(tmp_path.glob('.*'))  # what the killed one had begun to write


def test_replies_that_give_no_row_end_a_run(tmp_path):
    flags = [f'--output={tmp_path}/rows.jsonl', '--count=50', *CHAT, '--concurrency=8']
    with serving(content=lambda body, chance: ('我无法完成这个请求。', 'stop')) as server:
        errors = sentence(start(*flags, '--give_up_after=30', f'--base_url={server.url}'))
        assert 'too many replies in a row gave no row' in errors and '--give_up_after' in errors
        asked = len(server.log)
        assert 30 <= asked <= 30 + 4 * 8  # those that wait for a reply before them
        # Nothing more is spent unless somebody says so.
        sentence(start(*flags, '--give_up_after=30', f'--base_url={server.url}'))
        assert len(server.log) == asked == len(journaled(tmp_path / 'rows.journal.sqlite'))
    rejected = (tmp_path / 'rows.rejected.jsonl').read_text('utf-8').splitlines()
    assert len(rejected) == asked and json.loads(rejected[0])['reason'] == 'refusal'
    with serving() as server:
        run(*flags, '--give_up_after=0', f'--base_url={server.url}')
    assert len((tmp_path / 'rows.jsonl').read_text('utf-8').splitlines()) == 50


def test_a_journal_without_replies_takes_the_settings_of_the_next_run(tmp_path):
    output = f'--output={tmp_path}/rows.json'
    with serving(model='right') as server:
        flags = [output, '--count=3', '--api=chat', f'--base_url={server.url}']
        assert "does not know the model 'wrong'" in sentence(start(*flags, '--model_name=wrong'))
        assert not (tmp_path / 'rows.json').exists()
        run(*flags, '--model_name=right')


def test_other_words_than_the_actions_are_refused(tmp_path):
    _, errors = run('make', f'--output={tmp_path}/rows.json', code=1)
    assert (
        "'make' is not an action: generate (which may be left out), dedupe, convert and review are."
        in errors
    )
    assert KEY not in errors and not list(tmp_path.iterdir()) and ROOT.is_dir()
