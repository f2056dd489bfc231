"""A person's decisions about rows: kept whatever happens, and applied to whatever is harvested."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from belle_jax.api import Journal, Reply, Request
from belle_jax.pages.page import render
from belle_jax.synthesis import kinds, review, run
from belle_jax.synthesis.decisions import ByHand, Decision, DecisionLog, Names, rejected_row
from belle_jax.synthesis.harvest import Files
from belle_jax.synthesis.review_page import SHOWN, ReviewPage
from belle_jax.synthesis.settings import Settings
from belle_jax.synthesis.sources import read_seeds
from belle_jax.texts.similarity import Similarity
from generate_runs import fails, start_piped
from generate_runs import run as program

EVIL = '</script><script>alert(1)</script>'
ROWS = [
    {'instruction': f'说出{n}种春天的花', 'input': '', 'output': f'桃花 {n}', 'n': 2**60 + n}
    for n in range(6)
]
PIECES = [
    {
        'index': 3,
        'reason': 'too similar',
        'text': '{"instruction": "甲", "output": "乙"} to \'丙\' (0.8)',
    },
    {'index': 3, 'reason': 'refusal', 'text': '我无法完成这个请求。'},
    {'index': 4, 'reason': 'too short', 'text': '{"instruction": "丁", "output": "戊"}'},
]  # fmt: skip


def write(path: Path, rows: list) -> Path:
    path.write_text(''.join(f'{json.dumps(row, ensure_ascii=False)}\n' for row in rows), 'utf-8')
    return path


def read(path: Path) -> list:
    text = path.read_text('utf-8')
    return json.loads(text) if path.suffix == '.json' else list(map(json.loads, text.splitlines()))


@pytest.fixture
def rows(tmp_path):
    """Rows with rejected pieces beside them."""
    write(tmp_path / 'rows.rejected.jsonl', PIECES)
    return write(tmp_path / 'rows.jsonl', ROWS)


class Sitting:
    """A person at the page."""

    def __init__(self, rows: Path):
        files = Files.beside(rows)
        self.log = DecisionLog(files.decisions).__enter__()
        self.page = ReviewPage(rows.name, review._items(files), self.log)
        self.shown = [self.page.rows({'reason': reason})['items'] for reason in ('', '*')]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.log.__exit__()

    def row(self, number, action, **more):
        return self.page.decide({'row': self.shown[0][number]['name'], 'action': action, **more})

    def piece(self, number, action, **more):
        return self.page.decide({'row': self.shown[1][number]['name'], 'action': action, **more})


def test_what_was_decided_is_what_is_written(rows, tmp_path):
    with Sitting(rows) as sitting:
        sitting.row(0, 'keep')
        sitting.row(1, 'drop')
        sitting.row(2, 'edit', changes=[[['output'], EVIL], [['input'], '\ud83d']])
        sitting.row(3, 'drop')
        sitting.page.undo({})
        sitting.piece(0, 'restore')
        sitting.piece(1, 'drop')
        counts = sitting.piece(2, 'edit', changes=[[['output'], '己']])['counts']
    assert counts == {
        'all': 6, 'decided': 3, 'keep': 1, 'drop': 1, 'edit': 1, 'restore': 2, 'rejected': 3,
    }  # fmt: skip
    before, output = rows.read_bytes(), tmp_path / 'out' / 'reviewed.json'
    said = review.apply(rows, output)
    assert said == f'By hand: 1 dropped, 1 edited, 2 taken back: 7 rows.\nRows: {output}'
    assert read(output) == [
        ROWS[0], ROWS[2] | {'output': EVIL, 'input': '\ud83d'}, *ROWS[3:],
        {'instruction': '甲', 'output': '乙'}, {'instruction': '丁', 'output': '己'},
    ]  # fmt: skip
    assert rows.read_bytes() == before


def test_the_last_decision_counts_and_undo_goes_back_one_by_one_through_sittings(rows):
    """Against a list of what a person did, of which undo takes the last thing away."""
    chance, done = random.Random(3), []
    for _ in range(12):
        with Sitting(rows) as sitting:
            for _ in range(chance.randint(0, 8)):
                if done and chance.random() < 0.4:
                    sitting.page.undo({})
                    done.pop()
                    continue
                number, action = chance.randrange(6), chance.choice(('keep', 'drop'))
                sitting.row(number, action)
                done.append((number, action))
            shown = sitting.page.rows({})['items']
        last = dict(done)
        assert [item['state'] for item in shown] == [last.get(n, '') for n in range(6)]
    assert len(done) > 5


def test_a_line_that_was_cut_off_anywhere_loses_nothing_before_it_and_nothing_after(tmp_path):
    path = tmp_path / 'a.review.jsonl'
    edit = Decision('乙', 'edit', {'output': '花\n鸟 \ud83d'})
    decisions = [Decision('甲', 'keep'), edit, Decision('丙', 'drop')]
    with DecisionLog(path) as log:
        for decision in decisions:
            log.add(decision)
    whole = path.read_bytes()
    for cut in range(len(whole) + 1):
        path.write_bytes(whole[:cut])
        # A line that lacks its end alone says what it said.
        complete = whole[:cut].count(b'\n') + (whole[cut : cut + 1] == b'\n')
        expected = {decision.row: decision for decision in decisions[:complete]}
        assert DecisionLog(path).decided == expected
        with DecisionLog(path) as log:
            log.add(Decision('丁', 'drop'))
        assert DecisionLog(path).decided == expected | {'丁': Decision('丁', 'drop')}


@pytest.mark.parametrize(
    'line', ['{}', '[]', 'x', '{"row": 1, "action": "keep"}', '{"row": "a", "action": "burn"}',
             '{"row": "a", "action": "edit"}', '{"row": "a", "action": "drop", "edited": {}}',
             '[' * 100_000],
)  # fmt: skip
def test_a_damaged_line_is_named_and_nothing_is_written_over_it(tmp_path, line):
    path = tmp_path / 'a.review.jsonl'
    text = f'{{"row": "a", "action": "keep"}}\n{line}\n{{"row": "b", "action": "keep"}}\n'
    path.write_text(text)
    with pytest.raises(ValueError, match='a.review.jsonl:2: this is not a decision: mend'):
        DecisionLog(path)
    assert path.read_text() == text


def test_a_full_disk_keeps_the_file_whole_and_says_so(tmp_path):
    path = tmp_path / 'a.review.jsonl'
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with DecisionLog(path) as log:
        log.add(Decision('a', 'keep'))
        kept = path.read_bytes()
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (len(kept) + 10, before[1]))
            for _ in range(2):
                with pytest.raises(
                    OSError, match='cannot be written, and the decision is not kept'
                ):
                    log.add(Decision('b', 'drop'))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
            signal.signal(signal.SIGXFSZ, handler)
        assert path.read_bytes() == kept and set(log.decided) == {'a'}
        log.add(Decision('c', 'drop'))
    assert set(DecisionLog(path).decided) == {'a', 'c'}


def test_one_review_at_a_time_has_the_file(rows):
    with (
        Sitting(rows),
        pytest.raises(ValueError, match='is open in another review'),
        DecisionLog(Files.beside(rows).decisions),
    ):
        pass


def test_rows_are_named_by_what_they_say_and_copies_by_their_number():
    row, names = {'instruction': '甲', 'output': '乙'}, Names()
    near = {'most_similar_instructions': {'丙': 0.5}, 'avg_similarity_score': 0.1}
    first = names.row(row)
    assert names.row({'output': '乙', **near, 'instruction': '甲'}) == f'{first}-2'
    assert names.row(row | {'output': '丙'}) not in (first, f'{first}-2', f'{first}-3')
    # The neighbour that rejected a piece may be another one the next time.
    text = json.dumps(row, ensure_ascii=False)
    piece = {'index': 7, 'reason': 'too similar', 'text': f"{text} to '丙' (0.8)"}
    again = {'index': 7, 'reason': 'too short', 'text': text}
    assert Names().piece(piece) == Names().piece(again) != Names().piece(again | {'index': 8})
    assert rejected_row(piece['text']) == (row, '丙', 0.8)
    for text in ('{}', '[1]', '{"a": 1} and more', '{"a"', '1. 指令', '', '{"a":' * 50_000):
        assert rejected_row(text) == (None, '', None)


def test_an_edit_changes_texts_and_no_other_thing(rows):
    with Sitting(rows) as sitting:
        sitting.row(0, 'edit', changes=[[['output'], '新']])
        edited = sitting.row(0, 'edit', changes=[[['input'], '附']])['item']['row']
        assert edited == ROWS[0] | {'output': '新', 'input': '附'}
        for changes in (
            None, 5, [[]], [[['n'], 'x']], [[['output'], 5]], [[['none'], 'x']], [[[], 'x']],
            [['output', 'x']], [[['output', 0], 'x']], [[[0], 'x']],
        ):  # fmt: skip
            with pytest.raises(ValueError, match='an edit gives texts'):
                sitting.row(1, 'edit', changes=changes)
        for action in ('restore', 'burn', 'undo', '', None):
            with pytest.raises(ValueError):
                sitting.row(1, action)
        for action in ('restore', 'edit'):
            with pytest.raises(ValueError, match='this is not a row'):
                sitting.piece(1, action, changes=[])
        with pytest.raises(ValueError, match='rejected rows are taken back'):
            sitting.piece(0, 'keep')
        for asked in ({}, [], None, {'row': 'x', 'action': 'keep'}, {'row': ['x']}):
            with pytest.raises(ValueError, match='no such row'):
                sitting.page.decide(asked)
        assert len(sitting.log.decided) == 1


def test_an_edited_row_has_its_neighbours_as_long_as_it_asks_the_same():
    near = {'most_similar_instructions': {'丙': 0.5}, 'avg_similarity_score': 0.1}
    row = {'instruction': '甲', 'output': '乙'}
    for change, kept in (({'output': '丁'}, near), ({'instruction': '丁'}, {})):
        decided = {Names().row(row): Decision('', 'edit', row | change)}
        assert list(ByHand(decided).rows([row | near])) == [row | change | kept]


def test_filters_pass_the_rows_that_they_name(tmp_path):
    """Against the same said plainly, over every filter and their pairs."""
    chance, rows = random.Random(1), []
    for n in range(3 * SHOWN):
        row = {
            'instruction': f'问{n} "引" \\ {chance.choice(["春", "Autumn", "秋"])}',
            'output': '答\n',
        }
        row |= chance.choice(({'category': 'qa'}, {'category': '数学'}, {}))
        near = round(chance.random(), 2)
        row |= chance.choice(({'most_similar_instructions': {'x': near}}, {'similarity': near}, {}))
        rows.append(row)
    path = write(tmp_path / 'a.jsonl', rows)

    def score(row):
        return row.get('similarity', row.get('most_similar_instructions', {}).get('x'))

    plain = {
        ('category', 'qa'): lambda row: row.get('category') == 'qa',
        ('least', '0.5'): lambda row: score(row) is not None and score(row) >= 0.5,
        ('most', '0.25'): lambda row: score(row) is not None and score(row) <= 0.25,
        ('search', 'AUTUMN'): lambda row: 'Autumn' in row['instruction'],
        ('search', '"引" \\ '): lambda row: True,
        ('search', '答\n'): lambda row: True,
        ('search', 'instruction'): lambda row: False,  # is the field's name
        ('state', 'drop'): lambda row: row is rows[5],
        ('state', 'open'): lambda row: row is not rows[5],
        ('reason', '*'): lambda row: False,
    }  # fmt: skip
    with DecisionLog(Files.beside(path).decisions) as log:
        page = ReviewPage('a', review._items(Files.beside(path)), log)
        page.decide({'row': page.rows({})['items'][5]['name'], 'action': 'drop'})
        for one in plain:
            for other in plain:
                if one != other and one[0] == other[0]:
                    continue
                expected = [
                    n for n, row in enumerate(rows) if plain[one](row) and plain[other](row)
                ]
                found, after, more = [], -1, True
                while more:
                    part = page.rows(dict([one, other]) | {'after': str(after)})
                    found += [item['place'] for item in part['items']]
                    more, after = part['more'], found[-1] if found else -1
                    assert len(part['items']) <= SHOWN and part['passing'] == len(expected)
                assert found == expected, (one, other)
    with pytest.raises(ValueError):
        page.rows({'least': 'x'})


def test_a_rows_name_and_lists_are_escaped_in_the_page(rows):
    assert EVIL not in (page := render(
        'review.jinja', title=EVIL, reasons=[(EVIL, 1)], categories=[(f'"{EVIL}', 2)]
    ))  # fmt: skip
    assert page.count('&lt;/script&gt;') == 12 and page.count('<script') == 1
    script = (Path(review.__file__).parents[1] / 'pages' / 'review.js').read_text('utf-8')
    assert 'innerHTML' not in script and 'insertAdjacentHTML' not in script


# --- after a harvest ------------------------------------------------------------------------------

TASKS = (
    '说出春天开的五种花', '解释彩虹为什么是弯的', '说出秋天结的三样果子', '给新同事写一段欢迎词',
    '列出去敦煌要带的东西', '说出春天开的四种花',
)  # fmt: skip


class Run:
    """A run whose replies are in the journal."""

    def __init__(self, folder: Path):
        self.files = Files.beside(folder / 'rows.json')
        self.kind = kinds.make('self_instruct', Settings(seeds=read_seeds()))
        with Journal(self.files.journal, run.journal_settings(self.kind)) as journal:
            for index in range(2):
                pieces = [
                    f'{n}. 指令: {task}\n{n}. 输入:\n<无输入>\n{n}. 输出:\n好的，我来试一试。\n'
                    for n, task in enumerate(TASKS[3 * index : 3 * index + 3], 4)
                ]
                reply = Reply(index, '###\n'.join(pieces), 'stop', 1, 1, 0.0)
                journal.put(Request(index, self.kind.body(index)), reply).result()

    def rebuild(self, threshold=0.8, count=None):
        def pool():
            return Similarity('rouge', 'characters', threshold, True, [])

        job = run.Job(self.kind, self.kind.rules, pool, count)
        result = run.rebuild(job, self.files)
        rows = read(self.files.output)
        return [row['instruction'] for row in rows], result.account(self.files)


def test_rebuild_keeps_what_was_decided_whatever_the_filters(tmp_path):
    made = Run(tmp_path)
    names, said = made.rebuild()
    assert names == list(TASKS[:5]) and 'By hand' not in said
    assert not made.files.harvested.exists() and made.files.rejected.stat().st_size
    harvest = made.files.output.read_bytes()
    with Sitting(made.files.output) as sitting:
        sitting.row(0, 'drop')
        sitting.row(1, 'edit', changes=[[['instruction'], '解释虹']])
        sitting.piece(0, 'restore')
    wanted = ['解释虹', *TASKS[2:6]]
    for _ in range(2):
        names, said = made.rebuild()
        assert names == wanted
        assert '\nBy hand: 1 dropped, 1 edited, 1 taken back: 5 rows.\n' in said
        # What was harvested is what the next sitting shows, in its places.
        assert [json.dumps(row) for row in read(made.files.harvested)] == [
            json.dumps(row) for row in json.loads(harvest)
        ]
        with Sitting(made.files.output) as sitting:
            assert [item['state'] for item in sitting.shown[0]] == ['drop', 'edit', '', '', '']
            assert [item['state'] for item in sitting.shown[1]] == ['restore']
            assert sitting.shown[1][0]['similarity'] == 0.8889
    page = made.files.report.read_text('utf-8')
    assert '解释虹' in page and '<b>5</b><span>rows kept' in page
    # The dropped row is not harvested any more, and the rejected piece is a row of its own.
    names, said = made.rebuild(threshold=1.0, count=None)
    assert names == wanted and 'not harvested this time: 1.' in said
    names, said = made.rebuild(count=1)
    assert names == [] and 'not harvested this time: 2.' in said
    with Sitting(made.files.output) as sitting:
        for _ in range(3):
            sitting.page.undo({})
    names, said = made.rebuild()
    assert names == list(TASKS[:5]) and 'By hand' not in said
    assert made.files.output.read_bytes() == harvest and not made.files.harvested.exists()


def test_dropped_rows_are_not_asked_for_again_and_still_keep_their_likes_out(tmp_path):
    made = Run(tmp_path)
    made.rebuild(count=4)
    with Sitting(made.files.output) as sitting:
        sitting.row(0, 'drop')
    assert made.rebuild(count=4)[0] == list(TASKS[1:4])
    assert TASKS[5] not in made.rebuild(count=6)[0]


def test_decisions_that_cannot_be_read_stop_a_run_before_it_writes(tmp_path):
    made = Run(tmp_path)
    made.rebuild()
    before = made.files.output.read_bytes()
    made.files.decisions.write_text('x\n')
    with pytest.raises(ValueError, match='review.jsonl:1'):
        made.rebuild(count=2)
    assert made.files.output.read_bytes() == before


# --- the program ----------------------------------------------------------------------------------


def post(address, path, **values):
    request = urllib.request.Request(
        address + path, json.dumps(values).encode(), {'Content-Type': 'application/json'}
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def served(rows):
    """The program, and the address that it printed."""
    process = start_piped('review', f'--rows={rows}', key=None)
    assert process.stdout
    line = process.stdout.readline()
    assert line.startswith('Open http://127.0.0.1:'), line
    return process, line.split()[1]


def test_what_the_page_was_told_is_saved_outlives_a_kill(rows):
    process, address = served(rows)
    with urllib.request.urlopen(f'{address}rows', timeout=20) as answer:
        items = json.load(answer)['items']
    post(address, 'decide', row=items[0]['name'], action='drop')
    post(address, 'decide', row=items[1]['name'], action='edit', changes=[[['output'], '新']])
    assert fails('review', f'--rows={rows}').count('is open in another review') == 1
    process.kill()
    process.communicate()
    with Files.beside(rows).decisions.open('ab') as file:
        file.write(b'{"row": "')  # what a kill may leave of a decision
    process, again = served(rows)
    assert address != again
    with pytest.raises(urllib.error.HTTPError, match='403'):
        urllib.request.urlopen(again.rpartition('/')[0][:-5], timeout=20)
    with urllib.request.urlopen(f'{again}rows', timeout=20) as answer:
        items = json.load(answer)['items']
    assert [item['state'] for item in items[:3]] == ['drop', 'edit', '']
    assert items[1]['row']['output'] == '新'
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=20)
    assert process.returncode == 0 and not errors
    assert '2 of 6 rows decided.' in output and '--apply' in output


def test_the_program_writes_what_was_decided_and_nothing_over_another_file(rows, tmp_path):
    output = tmp_path / 'reviewed.jsonl'
    flags = 'review', f'--rows={rows}', '--apply'
    assert 'has no decisions' in fails(*flags, f'--output={output}')
    with Sitting(rows) as sitting:
        sitting.row(5, 'drop')
    said, _ = program(*flags, f'--output={output}')
    assert said.endswith(f'0 taken back: 5 rows.\nRows: {output}\n') and read(output) == ROWS[:5]
    assert 'is there already' in fails(*flags, f'--output={output}')
    program(*flags, f'--output={output}', '--overwrite')
    for path in (rows, Files.beside(rows).decisions, Files.beside(rows).rejected):
        assert 'would be overwritten' in fails(*flags, f'--output={path}', '--overwrite')
    assert read(rows) == ROWS
    assert 'with --output' in fails(*flags) and 'with --rows' in fails('review')
    for name in ('none.jsonl', 'empty.jsonl'):
        (tmp_path / 'empty.jsonl').touch()
        assert name in fails('review', f'--rows={tmp_path / name}')
        assert not (tmp_path / name).with_suffix('.review.jsonl').exists()


# --- in a browser ---------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_person_in_chromium(rows, tmp_path):
    """As CONTRIBUTING says: CHROMIUM and NODE_PATH say where Chromium and playwright-core are."""
    chromium, node = os.environ.get('CHROMIUM') or shutil.which('chromium'), shutil.which('node')
    if not chromium or not node:
        pytest.skip('there is no Chromium, or no node')
    if subprocess.run([node, '-e', 'require("playwright-core")'], capture_output=True).returncode:
        pytest.skip('there is no playwright-core: name its node_modules in NODE_PATH')
    write(rows, [*ROWS[:3], ROWS[3] | {'output': EVIL}, *ROWS[4:]])
    trial = Path(__file__).parents[1] / 'support' / 'review_trial.cjs'

    def person(part):
        done = subprocess.run(
            [node, trial, part, address, tmp_path], capture_output=True, text=True, timeout=120,
            env=os.environ | {'CHROMIUM': chromium},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    process, address = served(rows)
    seen = person('decide')
    assert seen['evil'] == EVIL and seen['hacked'] is None and seen['scripts'] == 0
    assert seen['escaped'] == 0 and seen['lang'] and 'this is not a row' in seen['refused']
    counts = '4 of 6 decided, 2 left: 1 kept, 2 dropped, 1 edited; 1 of 3 rejected taken back'
    assert seen['counts'] == counts and len(seen['errors']) == 1  # the answer 400 is told as one
    process.kill()
    process.communicate()
    process, address = served(rows)
    seen = person('look')
    assert seen['states'] == ['kept', 'dropped', 'dropped', 'edited', 'undecided', 'undecided']
    assert seen['edited'] == '改过的问题\n第二行' and seen['found'] == '#4'
    assert seen['counts'] == counts and seen['undone'] == '#8: undone.' and not seen['errors']
    before = Files.beside(rows).decisions.read_bytes()
    assert set(person('attack')['attacks'].values()) == {'TypeError'}
    assert Files.beside(rows).decisions.read_bytes() == before
    person('pictures')
    assert len(list(tmp_path.glob('*.png'))) == 4
    process.kill()
    process.communicate()
