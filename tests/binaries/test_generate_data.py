"""`python -m belle_jax.generate_data` against a server that misbehaves: whole runs, as programs."""

import concurrent.futures
import contextlib
import json
import random
import re
import shutil
import signal
import sqlite3
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import api_replies
import english_replies
import kind_replies
import real_replies
import training_runs
from api_runs import ServerProcess, kill_at_random_moments
from api_server import body_key
from belle_jax import config
from belle_jax.api import Client, Journal, Retries
from belle_jax.data import prepare, tokenizer
from belle_jax.data.record_reader import RecordReader
from belle_jax.synthesis import kinds
from belle_jax.synthesis.harvest import Files
from belle_jax.synthesis.run import Job, generate
from belle_jax.synthesis.settings import Settings
from belle_jax.synthesis.sources import read_categories, read_seeds
from belle_jax.texts.similarity import Similarity
from generate_runs import BAD, KEY, finish, journaled, run, serving, start, start_piped
from recipes import tiny as recipe

pytestmark = pytest.mark.slow
ROWS = 200
CHAT = ['--api=chat', '--model_name=test']


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON array, or of JSON lines."""
    text = path.read_text('utf-8')
    return json.loads(text) if text[0] == '[' else [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize(
    ('kills', 'requests'), [(3, 100), pytest.param(10, 2000, marks=pytest.mark.soak)]
)
def test_a_run_killed_at_random_moments_writes_what_an_undisturbed_one_writes(
    tmp_path, kills, requests
):
    def flags(name, url):
        # At 0.8 the server's templates give near 4 rows a reply, and what is near to what matters.
        return [
            f'--output={tmp_path}/{name}/rows.json', f'--base_url={url}', '--threshold=0.8',
            f'--count={int(3.8 * requests)}', '--concurrency=32', '--timeout=1',
        ]  # fmt: skip

    with ServerProcess(tmp_path / 'calm.log') as server:
        run(*flags('calm', server.url))
        asked = len(server.lines())
        assert asked > 0.8 * requests

    faults = ('--fault_rate=0.3', '--retry_after=0.2', '--delay=0.02')
    with ServerProcess(tmp_path / 'log', *faults) as server:
        runs = []

        def begin():
            runs.append(start(*flags('killed', server.url)))
            return runs[-1]

        kill_at_random_moments(
            begin,
            server,
            tmp_path / 'killed' / 'rows.journal.sqlite',
            kills=kills,
            requests=asked,
            concurrency=32,
            chance=random.Random(20),
        )
        what = Counter(line['what'] for line in server.lines())

    assert [each.returncode for each in runs] == [-signal.SIGKILL] * kills + [0]
    for name in ('rows.json', 'rows.rejected.jsonl'):
        disturbed, calm = (tmp_path / folder / name for folder in ('killed', 'calm'))
        assert disturbed.read_bytes() == calm.read_bytes()
    # All of its ways to misbehave, and no answer twice but for what was in flight at a kill. Some
    # requests go beyond what turns out to be needed.
    assert len(what) == 13 and asked <= what['ok'] + 32 <= asked + 64 + kills * 32
    assert sorted(path.name for path in (tmp_path / 'killed').iterdir()) == [
        'rows.journal.sqlite', 'rows.json', 'rows.rejected.jsonl', 'rows.report.html',
    ]  # fmt: skip
    files = [path for path in tmp_path.rglob('*') if path.is_file()]
    assert len(files) == 10 and not any(KEY.encode() in path.read_bytes() for path in files)


def make_rows(folder, kind, rows):
    """Makes 200 rows, with the settings of a run without flags; returns the server's log."""
    content = api_replies if kind == 'self_instruct' else kind_replies
    own = read_seeds()
    asks = kinds.make(kind, Settings(seeds=own, rows=rows, api='chat', model_name='test'))
    job = Job(
        kind=asks,
        rules=asks.rules,
        similarity=lambda: Similarity(
            'rouge', 'characters', None, True, [seed['instruction'] for seed in own]
        ),
        count=ROWS,
        concurrency=64,
    )
    with serving(content=getattr(content, kind), **BAD) as server:
        client = Client(server.url, retries=Retries(first_delay=0.2))
        result = generate(job, Files.beside(folder / f'{kind}.json'), client)
    assert result.outcome == 'enough', result.complaint
    return server.log


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    """A file of each kind, made by a server that misbehaves, and the servers' logs."""
    folder = tmp_path_factory.mktemp('kinds')
    rows = [
        {
            'id': f'row {n}',
            'instruction': f'说说第{n}种茶。',
            'input': '',
            'output': f'它排在第{n}。',
        }
        for n in range(300)
    ]
    with concurrent.futures.ThreadPoolExecutor() as threads:
        logs = {kind: threads.submit(make_rows, folder, kind, rows) for kind in kinds.KINDS}
    return folder, rows, {kind: log.result() for kind, log in logs.items()}


@pytest.mark.parametrize('kind', kinds.KINDS)
def test_each_kind_makes_rows_that_training_reads_from_a_server_that_misbehaves(made, kind):
    folder, given, logs = made
    rows = read(folder / f'{kind}.json')
    assert len(rows) == ROWS
    records = list(
        RecordReader(str(folder / f'{kind}.json'))
    )  # strict: a row that is no good raises
    assert len(records) == ROWS
    assert all(record.messages[-1]['content'] for record in records)
    if kind == 'label':
        names = {each['name'] for each in read_categories()}
        assert {row.pop('category') for row in rows} <= names
        assert all(row in given for row in rows)
    if kind == 'multiturn':
        assert all(len(record.messages) >= 4 for record in records)

    reasons = Counter(row['reason'] for row in read(folder / f'{kind}.rejected.jsonl'))
    assert reasons['refusal'] and sum(reasons.values()) < ROWS
    assert (reasons['unknown label'] > 3) == (kind == 'label')
    what = Counter(line['what'] for line in logs[kind])
    assert len(what) > 6
    # Each answer that was given is in the journal, with what was paid for and came to nothing when
    # there were rows enough. Two requests may be of the same words.
    answered = Counter(line['key'] for line in logs[kind] if line['what'] == 'ok')
    with Journal(folder / f'{kind}.journal.sqlite') as journal:
        entries = [asked for asked, reply in journal.entries() if not reply.error]
        assert answered == Counter(body_key(asked.body) for asked in entries)
    page = (folder / f'{kind}.report.html').read_text('utf-8')
    assert page.count('<svg') >= 4 and f'Instruction data: {kind}' in page


def test_training_takes_the_files_of_all_kinds_as_they_are(made, tmp_path):
    folder, *_ = made
    files = [folder / f'{kind}.json' for kind in kinds.KINDS]
    letters = sorted({letter for path in files for letter in path.read_text('utf-8')})
    training_runs.make_tokenizer(tmp_path / 'tokenizer', letters)
    c: Any = recipe.get_config()
    c.data.update(
        path=','.join(map(str, files)),
        tokenizer=str(tmp_path / 'tokenizer'),
        cache_dir=str(tmp_path / 'cache'),
        seq_len=4096,
    )
    c.model.architecture.max_position = 4096
    tokens = tokenizer.load(tmp_path / 'tokenizer')
    for source in prepare(config.resolve(c), tokens).account['sources']:
        assert source['rows'] == source['kept'] == ROWS and not source['skipped'], source
        assert not source['prompt_shortened'] and source['trained_tokens'] > ROWS


def test_english_seeds_make_english_rows(shared, tmp_path):
    seeds, output = shared / 'data/instructions/seed_tasks.jsonl', tmp_path / 'rows.jsonl'
    with serving(content=real_replies.self_instruct_en, keep_bodies=True) as server:
        flags = [f'--output={output}', '--count=40', '--language=en', f'--base_url={server.url}']
        run(f'--seeds={seeds}', *flags)
    rows = read(output)
    assert len(rows) == 40 and len(list(RecordReader(str(output)))) == 40
    assert all(row['instruction'].isascii() for row in rows)
    known = [' '.join(row['instruction'].split()) for row in read(seeds)]
    for body in server.bodies:
        prompt = body['messages'][0]['content']
        assert '1. Instruction: ' in prompt and prompt.endswith('4. Instruction:')
        shown = [text for text in known if text.rstrip(':') in prompt]
        assert len(shown) >= 3


@pytest.mark.parametrize('kind', kinds.KINDS)
def test_each_kind_makes_english_rows_with_language_alone(tmp_path, kind):
    rows, output = tmp_path / 'old.jsonl', tmp_path / 'rows.jsonl'
    old = [
        {'id': str(n), 'instruction': f'Name tea {n}.', 'output': f'Tea {n}.'} for n in range(60)
    ]
    rows.write_text('\n'.join(map(json.dumps, old)), 'utf-8')
    more = [f'--rows={rows}'] if kind in ('evol', 'label') else []
    with serving(content=getattr(english_replies, kind), keep_bodies=True) as server:
        flags = [f'--output={output}', f'--base_url={server.url}', '--count=40', *CHAT]
        run(f'--kind={kind}', '--language=en', *more, *flags)
    made = read(output)
    assert len(made) == 40 and len(list(RecordReader(str(output)))) == 40
    asked = [body['messages'][0]['content'] for body in server.bodies]
    if kind in ('self_instruct', 'multiturn'):  # a seed may ask for a translation
        asked = [text for text in asked if 'Chinese' not in text]
    assert not re.search('[\u4e00-\u9fff]', ''.join([*asked, output.read_text('utf-8')]))


def test_labels_of_a_truthful_server_are_the_classes_of_belles_evaluation_set(shared, tmp_path):
    asked = shared / 'data/belle/eval_set.json'
    given = read(asked)
    flags = ['--kind=label', f'--rows={asked}', *CHAT]
    with serving(content=real_replies.true_label(asked)) as server:
        asking = ['--concurrency=64', f'--base_url={server.url}']
        run(f'--output={tmp_path}/rows.json', *asking, *flags)
    rows = read(tmp_path / 'rows.json')
    assert [row | {'category': ''} for row in rows] == [row | {'category': ''} for row in given]
    # One class, closed qa, is written with a no-break space.
    classes = [' '.join(row['class'].split()) for row in given]
    assert [row['category'] for row in rows] == classes and len(set(classes)) == 10

    # In a file of their own, which asks nothing again.
    run(f'--output={tmp_path}/rows.json', *flags, '--rebuild', '--apart', key=None)
    apart = [{'id': str(n), 'category': name} for n, name in enumerate(classes)]
    assert read(tmp_path / 'rows.json') == apart


def test_a_journal_gives_the_same_rows_again_and_others_with_other_filters(tmp_path):
    def content(body, chance):
        text, reason = api_replies.self_instruct(body, chance)
        return re.sub('指令: (?=[解描推])', '指令: 让ChatGPT', text), reason

    flags = [f'--output={tmp_path}/rows.json', '--count=60', *CHAT]
    with serving(content=content) as server:
        said, _ = run(*flags, f'--base_url={server.url}')
    names = int(said.partition('rejected, names a model: ')[2].splitlines()[0])
    assert names > 5
    files = {name: tmp_path / f'rows.{name}' for name in ('json', 'rejected.jsonl', 'report.html')}
    first = {name: path.read_bytes() for name, path in files.items()}
    replies = journaled(tmp_path / 'rows.journal.sqlite')
    for path in files.values():
        path.unlink()

    # From here on there is no server, and no key.
    run(*flags, '--rebuild', key=None)
    assert {name: path.read_bytes() for name, path in files.items()} == first
    before = json.loads(first['json'])

    said, _ = run(*flags, '--rebuild', '--threshold=0.5', '--noneighbours', key=None)
    rows = read(files['json'])
    assert len(rows) < len(before) == 60 and 'too similar' in said
    assert set(rows[0]) == {'instruction', 'input', 'output'}
    assert set(before[0]) - set(rows[0]) == {'most_similar_instructions', 'avg_similarity_score'}

    left_out = '--without=names a model,GPT phrases,GPT remains'
    more = ['--similarity=none', '--count=1000', left_out]
    said, _ = run(*flags, '--rebuild', *more, key=None)
    rows = {row['instruction'] for row in read(files['json'])}
    assert rows > {row['instruction'] for row in before}
    assert sum('让ChatGPT' in instruction for instruction in rows) >= names
    assert 'too similar' not in said and 'names a model' not in said
    assert journaled(tmp_path / 'rows.journal.sqlite') == replies


def test_rows_are_not_replaced_by_none_or_by_those_of_a_smaller_journal(tmp_path):
    output, journal = tmp_path / 'rows.json', tmp_path / 'rows.journal.sqlite'
    flags = [f'--output={output}', '--count=30', *CHAT]
    with serving() as server:
        run(*flags, f'--base_url={server.url}')
        before, whole = output.read_bytes(), journal.read_bytes()
        assert len(read(output)) == 30

        # Damaged to nothing: neither made again from it, nor asked again over it.
        journal.write_bytes(b'')
        for more in (['--rebuild'], [f'--base_url={server.url}']):
            _, errors = run(*flags, *more, code=1)
            assert 'has 0 of at least ' in errors and 'rows would be lost' in errors
            assert output.read_bytes() == before
        # Fewer replies than the report says, and no row of all of them.
        journal.write_bytes(whole)
        with contextlib.closing(sqlite3.connect(journal)) as db, db:
            db.execute('DELETE FROM replies WHERE id > 1')
        _, errors = run(*flags, '--rebuild', code=1)
        assert 'has 1 of at least ' in errors and output.read_bytes() == before
        journal.write_bytes(whole)
        _, errors = run(*flags, '--rebuild', '--threshold=0.001', code=1)
        assert 'not one row came of ' in errors and output.read_bytes() == before
        assert not [path.name for path in tmp_path.iterdir() if path.name.startswith('.')]
        run(*flags, '--rebuild', '--threshold=0.001', '--overwrite')
        assert read(output) == []
        run(*flags, '--rebuild')  # where nothing is lost, nothing is asked for
        assert output.read_bytes() == before


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_an_interrupted_run_writes_its_rows_and_goes_on_later(tmp_path, number):
    def flags(url):
        return ['--count=300', *CHAT, '--concurrency=6', f'--base_url={url}']

    output = tmp_path / 'rows.json'
    with serving(delay=0.2) as server:
        # As a job that a script has started with `&`, which the shell lets ignore Ctrl-C.
        ignore = [] if number == signal.SIGINT else [signal.SIGINT]
        process = start_piped(
            f'--output={output}',
            *flags(server.url),
            preexec_fn=lambda: [signal.signal(n, signal.SIG_IGN) for n in ignore],
        )
        while len(server.log) < 13:
            time.sleep(0.01)
        # Schedulers send to the group and to the process; however many come, they are one request.
        for each in (number, number, signal.SIGTERM, number):
            process.send_signal(each)
            time.sleep(0.02)
        said, errors = finish(process, 130)
        assert 'interrupted: run the same command to go on' in errors
        asked = {line['key'] for line in server.log}
    # What was in flight was awaited, and all that was paid for is in the rows.
    assert len(journaled(tmp_path / 'rows.journal.sqlite')) == len(asked)
    assert f'of {len(asked)} replies.' in said
    before = output.read_bytes()
    assert 0 < len(json.loads(before)) < 300

    if number == signal.SIGINT:
        run(f'--output={output}', '--count=300', *CHAT, '--rebuild', key=None)
        assert output.read_bytes() == before
    else:
        with serving() as server:
            run(f'--output={output}', *flags(server.url))
            assert not asked & {line['key'] for line in server.log}
        assert len(read(output)) == 300


def test_a_budget_ends_a_run_and_a_larger_one_goes_on(tmp_path):
    flags = [f'--output={tmp_path}/rows.json', '--count=120', '--api=chat']
    flags += ['--model_name=gpt-4o-mini', '--concurrency=8']
    with serving() as server:
        flags.append(f'--base_url={server.url}')
        said, errors = run(*flags, '--budget_tokens=30000', code=1)
        assert 'the budget is reached: raise it and run the same command' in errors
        spent = int(said.partition('answers, ')[2].split()[0].replace(',', ''))
        assert 20_000 < spent <= 30_000 and f'answers, {spent:,} tokens, $0.0' in said
        few = read(tmp_path / 'rows.json')
        assert 0 < len(few) < 120

        # 0.15 USD for a million tokens of the prompt, 0.6 for one of the answer.
        said, errors = run(*flags, '--budget_usd=0.0105', code=1)
        assert 'the budget is reached' in errors
        more = read(tmp_path / 'rows.json')
        assert len(few) < len(more) < 120 and more[: len(few)] == few

        run(*flags, '--budget_usd=1')
    assert len(read(tmp_path / 'rows.json')) == 120
    assert max(Counter(line['key'] for line in server.log).values()) == 1


def test_belles_command_lines_work(shared, tmp_path):
    seeds = tmp_path / 'zh_seed_tasks.json'
    shutil.copy(shared / 'data/belle/zh_seed_tasks.json', seeds)
    belle = 'generate_instruction_following_data'
    with serving(keep_bodies=True, **BAD) as server:
        url = f'--base_url={server.url}'
        run(
            belle, f'--output_dir={tmp_path}/out', f'--seed_tasks_path={seeds}',
            '--num_instructions_to_generate=40', '--api=chat', '--model_name=gpt-3.5-turbo',
            '--num_prompt_instructions=4', '--request_batch_size=16', '--temperature=0.8',
            '--top_p=0.9', '--num_cpus=16', url,
        )  # fmt: skip
        rows = read(tmp_path / 'out' / 'Belle.train.json')
        fields = 'instruction input output most_similar_instructions avg_similarity_score'
        assert len(rows) == 40 and list(rows[0]) == fields.split()
        assert len(rows[-1]['most_similar_instructions']) == 10
        (prompt,) = server.bodies[0].pop('messages')
        assert server.bodies[0] == {
            'model': 'gpt-3.5-turbo', 'n': 1, 'max_tokens': 1024, 'temperature': 0.8, 'top_p': 0.9,
            'stop': ['\n20.', '\n20．', '\n20、'],
        }  # fmt: skip
        assert '4. 输出:' in prompt['content'] and prompt['content'].endswith('###\n5. 指令:')
        known = [' '.join(row['instruction'].split()) for row in read(seeds)]
        assert sum(text.rstrip('：:') in prompt['content'] for text in known) >= 4

        # As its README has it: nothing but the positional argument.
        asked = len(server.bodies)
        run(belle, url, cwd=tmp_path)
        assert len(read(tmp_path / 'Belle.train.json')) == 100
        body = server.bodies[asked]
        # But for what is gone: the completion API and its model.
        assert body['model'] == 'gpt-4.1-mini' and body['temperature'] == 1.0
        assert body['messages'][0]['content'].endswith('###\n4. 指令:')

        asked = len(server.bodies)
        flags = ['--api=completion', '--model_name=text-davinci-003', '--output=old.json', url]
        run(belle, *flags, cwd=tmp_path)
        body = server.bodies[asked]
        assert body['prompt'].endswith('###\n4. 指令:') and body['logit_bias'] == {'50256': -100}


def test_a_key_and_a_models_name_are_enough_for_todays_chat_api(tmp_path):
    """A strict imitation: it refuses, by name, what it does not know and what is outdated."""
    known = {'model', 'messages', 'max_completion_tokens', 'n', 'response_format', 'seed'}

    def strict(body):
        outdated = {'max_tokens': "Use 'max_completion_tokens' instead."}
        for name in body:
            if name not in known:
                remedy = outdated.get(name, '')
                message = (
                    f"Unsupported parameter: '{name}' is not supported with this model. {remedy}"
                )
                error = {'message': message, 'param': name, 'code': 'unsupported_parameter'}
                return 400, {'error': error}
        return None

    with serving(keep_bodies=True, rules=strict, key=KEY) as server:
        account, _ = run(
            f'--base_url={server.url}', '--count=40', '--model_name=gpt-5', cwd=tmp_path
        )
    assert len(read(tmp_path / 'Belle.train.json')) == 40
    taken = [body for body in server.bodies if not body.keys() - known]
    assert taken and all(
        body.keys() == {'model', 'messages', 'max_completion_tokens', 'n'} for body in taken
    )
    # What is sent otherwise is said, and in the journal.
    assert account.count('as the server refuses') == 4
    with Journal(tmp_path / 'Belle.train.journal.sqlite') as journal:
        assert all(reply.sent in taken for reply in journal.replies())


def test_files_are_deduplicated_and_converted(shared, tmp_path):
    data, output = shared / 'data', tmp_path / 'clean.jsonl'
    files = [data / 'belle/dev1K.json', data / 'instructions/alpaca_zh_demo.json']
    files.append(files[0])  # once more: all of it is there already
    rows = [len(list(RecordReader(str(path)))) for path in files]
    names = ','.join(map(str, files))
    said, _ = run('dedupe', f'--rows={names}', f'--output={output}')
    kept, removed = read(output), read(tmp_path / 'clean.removed.jsonl')
    assert len(kept) + len(removed) == sum(rows) and len(removed) >= rows[0]
    assert f'{sum(rows):,} rows read: {len(kept):,} kept' in said
    said, _ = run(
        'convert', f'--rows={output}', f'--output={tmp_path}/messages.json', '--layout=messages'
    )
    assert f'messages.json: messages: {len(kept):,} rows' in said
    records = list(RecordReader(str(tmp_path / 'messages.json')))
    assert len(records) == len(kept)
    for row, record in zip(kept, records):
        question, answer = (message['content'] for message in record.messages[-2:])
        first, given = row['instruction'], row['input'] or ''
        there = not given or f'{first[-1]}{given[0]}'.strip() != f'{first[-1]}{given[0]}'
        assert answer == row['output'] and question == first + '\n' * (not there) + given
