"""Our seed tasks keep what they promise; files of others are read, broken ones have an address."""

import collections
import fractions
import itertools
import json
import re
import shutil
import sqlite3
import subprocess
import sys

import pytest

from belle_jax.synthesis import Settings, apply_rules, make
from belle_jax.synthesis.sources import OWN_ENGLISH_SEEDS, OWN_SEEDS, read_categories, read_seeds

CATEGORIES = [
    'generation', 'brainstorming', 'rewrite', 'classification', 'extract', 'summarization',
    'open qa', 'closed qa', 'translation', 'math', 'code', 'role play', 'harmless',
]  # fmt: skip
TASK = {
    'id': 'seed_task_0',
    'name': 'greeting',
    'instruction': '打个招呼。',
    'instances': [{'input': '', 'output': '你好！'}],
    'is_classification': False,
}


@pytest.fixture(scope='module')
def tasks():
    return [json.loads(line) for line in OWN_SEEDS.read_text('utf-8').splitlines()]


def only(task):
    (example,) = task['instances']
    return example


def plain_lcs(a, b):
    """The textbook's table."""
    row = [0] * (len(b) + 1)
    for x in a:
        fresh = [0]
        for j, y in enumerate(b):
            fresh.append(row[j] + 1 if x == y else max(row[j + 1], fresh[-1]))
        row = fresh
    return row[-1]


def lcs(a, b):
    """The same, a row of the table in the bits of one number (Hyyrö, 2004)."""
    places = collections.defaultdict(int)
    for i, x in enumerate(a):
        places[x] |= 1 << i
    every = (1 << len(a)) - 1
    row = every
    for y in b:
        hit = row & places[y]
        row = (row + hit | row - hit) & every
    return len(a) - row.bit_count()


def rouge_l(a, b):
    common = lcs(a, b)
    precision, recall = common / len(a), common / len(b)
    return 2 * precision * recall / (precision + recall) if common else 0.0


def test_fast_lcs_equals_the_table(tasks):
    texts = [task['instruction'] + only(task)['input'] for task in tasks]
    for i in range(0, len(texts) - 1, 7):
        a, b = texts[i], texts[(i * 13 + 5) % len(texts)]
        assert lcs(a, b) == plain_lcs(a, b)


def test_there_are_175_tasks_in_belles_format(tasks):
    assert len(tasks) == 175
    for number, task in enumerate(tasks):
        assert list(task) == [
            'id', 'name', 'instruction', 'instances', 'is_classification', 'category',
        ]  # fmt: skip
        assert task['id'] == f'seed_task_{number}'
        assert re.fullmatch('[a-z0-9_]+', task['name'])
        assert set(only(task)) == {'input', 'output'}
        texts = (task['instruction'], only(task)['input'], only(task)['output'])
        for text in texts:
            assert text == text.strip() and text == text.encode('utf-8').decode('utf-8')
        assert texts[0] and texts[2]
    assert len({task['name'] for task in tasks}) == 175


def test_all_categories_kinds_of_answers_and_inputs_are_there(tasks):
    counts = collections.Counter(task['category'] for task in tasks)
    assert list(counts) == CATEGORIES and min(counts.values()) >= 13
    classifications = [task for task in tasks if task['is_classification'] is True]
    assert len(classifications) >= 26
    assert {t['category'] for t in tasks if t['category'] == 'classification'} == {'classification'}
    assert all(t['is_classification'] for t in tasks if t['category'] == 'classification')
    assert len({task['category'] for task in classifications}) >= 6
    without = [task for task in tasks if not only(task)['input']]
    assert len(without) >= 49
    assert len({task['category'] for task in without}) == 13


def test_no_two_tasks_are_close(tasks):
    for text in (
        lambda task: task['instruction'],
        lambda task: task['instruction'] + only(task)['input'],
    ):
        texts = [text(task) for task in tasks]
        nearest = max(
            (rouge_l(a, b), a, b) for a, b in itertools.combinations(texts, 2)
        )  # a failure shows the pair
        assert nearest[0] < 0.6, nearest
    assert len({task['instruction'][:2] for task in tasks}) > 140


def test_no_task_is_taken_from_belles(tasks, shared):
    path = shared / 'data/belle/zh_seed_tasks.json'
    theirs = [json.loads(line)['instruction'] for line in path.read_text('utf-8').splitlines()]
    nearest = max(
        (rouge_l(t['instruction'], b), t['instruction'], b) for t in tasks for b in theirs
    )
    assert nearest[0] < 0.6, nearest


def test_tasks_pass_what_generated_ones_must_pass(tasks):
    """Else replies that imitate them are cut, taken apart, or thrown away."""
    media = '图像 图片 照片 文件 图表 图层 曲线图 折线图 直线图 柱形图 饼状图 链接 http openai gpt'
    for task in tasks:
        texts = [task['instruction'], only(task)['input'], only(task)['output']]
        whole = '\n'.join(texts)
        assert not [word for word in media.split() if word in whole.lower()], whole
        assert not re.search(r'\n20|20\.|###|指令|输入[:：]|输出[:：]|无输入', whole), whole
        assert 8 <= len(texts[0]) < 100 and '\n' not in texts[0] and texts[0][-1] not in ':：'
        assert not re.search(r'\d+\.$', whole)
        assert len(whole) < 800


def test_lengths_that_tasks_ask_for_are_kept(tasks):
    answers = {task['name']: only(task)['output'] for task in tasks}
    limits = {
        'housewarming_invitation': 80,
        'foolish_old_man_fable': 100,
        'duty_log_to_weekly_report': 80,
        'compress_to_twenty_characters': 20,
        'title_for_crane_story': 12,
    }
    assert {name: n for name, n in limits.items() if len(answers[name]) > n} == {}
    assert len(answers['market_after_rain_poem'].splitlines()) <= 10


def value(expression):
    """An arithmetical expression, in fractions; 2/3 is one number, ÷ divides."""
    text = re.sub(r'\d+(?:\.\d+|/\d+)?', r"F('\g<0>')", expression.replace('−', '-'))
    return eval(text.replace('×', '*').replace('÷', '/'), {'F': fractions.Fraction})


def test_arithmetic_of_the_answers_is_right(tasks):
    checked = 0
    for task in tasks:
        answer = only(task)['output'].replace(' ', '')
        for text in re.split('[\n，。；：（）、？“”%一-鿿]', answer):
            text = text.strip('=')
            if '=' in text and re.fullmatch('[0-9./()×÷+−=]+', text):
                assert len({value(side) for side in text.split('=')}) == 1, text
                checked += 1
    assert checked >= 25


def blocks(task, language):
    return re.findall(rf'```{language}\n(.*?)```', only(task)['output'], re.S)


def test_code_of_the_answers_runs(tasks, tmp_path):
    code = {task['name']: task for task in tasks if task['category'] == 'code'}
    space = {}
    for name in ('python_palindrome_ignoring_punctuation', 'lru_cache_class'):
        exec(blocks(code[name], 'python')[0], space)
    assert space['is_palindrome']('A man, a plan, a canal: Panama')
    assert space['is_palindrome']('上海自来水来自海上。') and not space['is_palindrome']('ab')
    cache = space['LRUCache'](2)
    for key in 'ab':
        cache.put(key, key.upper())
    assert cache.get('a') == 'A'
    cache.put('c', 'C')
    assert [cache.get(key) for key in 'abc'] == ['A', None, 'C']

    exec(blocks(code['meaningful_variable_names'], 'python')[0], space)
    exec(only(code['meaningful_variable_names'])['input'], space)
    assert space['f']([1, 5, 9], 4) == space['count_above']([1, 5, 9], 4) == 2
    exec(blocks(code['average_that_sometimes_fails'], 'python')[0], space)
    assert space['average']([1, 2, 6]) == 3
    with pytest.raises(ValueError, match='空列表'):
        space['average']([])

    script = only(code['predict_mutable_default'])['input']
    said = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True).stdout
    assert said in only(code['predict_mutable_default'])['output']

    test = tmp_path / 'test_age.py'
    parts = (
        only(code['pytest_for_parse_age'])['input'],
        blocks(code['pytest_for_parse_age'], 'python')[0],
    )
    test.write_text('\n\n'.join(parts), 'utf-8')
    command = [
        sys.executable,
        '-m',
        'pytest',
        '-q',
        '-p',
        'no:cacheprovider',
        test,
        '-c',
        '/dev/null',
    ]
    assert '7 passed' in subprocess.run(command, capture_output=True, text=True).stdout


def test_sql_regex_and_c_of_the_answers_work(tasks, tmp_path):
    code = {task['name']: task for task in tasks if task['category'] == 'code'}
    database = sqlite3.connect(':memory:')
    database.execute('CREATE TABLE orders (id INTEGER, amount REAL, created_at TEXT)')
    orders = [
        ('2022-12-31', 90000),
        ('2023-02-01', 6000),
        ('2023-02-28', 4001),
        ('2023-03-01', 9999),
    ]
    orders += [('2023-11-30', 10001), ('2024-01-01', 90000)]
    database.executemany('INSERT INTO orders (created_at, amount) VALUES (?, ?)', orders)
    found = database.execute(blocks(code['sql_monthly_totals'], 'sql')[0]).fetchall()
    assert found == [('02', 10001), ('11', 10001)]
    database.close()

    phone = re.compile(only(code['explain_phone_regex'])['input'])
    assert phone.match('13800000000') and not phone.match('12800000000')
    assert not phone.match('1380000000')

    (tmp_path / 'a b.py').write_text('1\n2\n')
    (tmp_path / 'c').mkdir()
    (tmp_path / 'c/d.py').write_text('3\n')
    count = blocks(code['count_lines_in_shell'], 'bash')[0]
    assert subprocess.check_output(['bash', '-c', count], cwd=tmp_path).split() == [b'3']

    compiler = shutil.which('cc')
    if compiler:
        source = tmp_path / 'sum.c'
        source.write_text(blocks(code['python_loop_to_c'], 'c')[0])
        subprocess.check_call([compiler, '-Wall', '-Werror', source, '-o', tmp_path / 'sum'])
        expected = sum(i * i for i in range(1, 101) if i % 3 == 0)
        assert int(subprocess.check_output([tmp_path / 'sum'])) == expected


def test_categories_are_belles_thirteen(tasks):
    own = read_categories()
    assert [category['name'] for category in own] == CATEGORIES
    assert {task['category'] for task in tasks} == {category['name'] for category in own}
    for category in own:
        assert set(category) == {'name', 'zh', 'definition', 'english'}
        assert category['english'].isascii() and len(category['english']) > 100
        assert re.search('[一-鿿]', category['zh']) and len(category['definition']) > 30


@pytest.mark.parametrize(
    ('text', 'said'),
    [
        ('[{"name": "a", "zh": "甲", "definition": "x"}]', 'two categories or more'),
        ('[{"name": "a", "zh": "甲", "definition": "x"}, {"name": "b", "zh": ""}]', 'category 2'),
        ('[{"name": "a", "zh": "甲", "definition": "x"},\n{', r'JSON .*line 2 column'),
        (
            '[{"name": "a", "zh": "甲", "definition": "x"}, '
            '{"name": "a", "zh": "乙", "definition": "x"}]',
            "two categories are called 'a'",
        ),
    ],
)
def test_broken_categories_are_told(tmp_path, text, said):
    path = tmp_path / 'categories.json'
    path.write_text(text, 'utf-8')
    with pytest.raises(ValueError, match=said):
        read_categories(path)


def test_own_seeds_are_read_as_they_stand(tasks):
    assert read_seeds() == tasks


def test_our_english_seeds_are_varied_and_pass_what_generated_ones_must_pass():
    tasks = read_seeds(OWN_ENGLISH_SEEDS)
    assert len(tasks) >= 50 and len({task['name'] for task in tasks}) == len(tasks)
    counts = collections.Counter(task['category'] for task in tasks)
    assert list(counts) == CATEGORIES and min(counts.values()) >= 4
    assert sum(not only(task)['input'] for task in tasks) >= len(tasks) // 3
    kind = make('self_instruct', Settings(seeds=tasks, language='en'))
    for task in tasks:
        row = {'instruction': task['instruction']} | only(task)
        assert apply_rules(row, kind.rules)[1] == '', task
        assert not re.search(r'\n20|###|Instruction:|Input:|Output:', str(row))
    texts = [task['instruction'].lower().split() for task in tasks]
    assert max(rouge_l(a, b) for a, b in itertools.combinations(texts, 2)) < 0.6
    assert len({text[0] for text in texts}) > 25
    space = {}
    longest = next(task for task in tasks if task['name'] == 'python_longest_word')
    exec(blocks(longest, 'python')[0], space)
    assert space['longest_word']("It's a fine, sunny day!") == 'sunny'
    assert space['longest_word']('') == ''


@pytest.mark.parametrize(
    ('file', 'classifications', 'without'),
    [('belle/zh_seed_tasks.json', 26, 49), ('instructions/seed_tasks.jsonl', 26, 50)],
)
def test_seed_files_of_others_are_read(shared, tmp_path, file, classifications, without):
    path = shared / 'data' / file
    raw = [json.loads(line) for line in path.read_text('utf-8').splitlines()]
    read = read_seeds(path)
    assert read == raw and len(read) == 175
    assert sum(task['is_classification'] for task in read) == classifications
    assert sum(not only(task)['input'] for task in read) == without
    array = tmp_path / 'seeds.json'
    array.write_text(json.dumps(raw, ensure_ascii=False, indent=1), 'utf-8')
    assert read_seeds(array) == raw


def test_rows_of_instruction_input_and_output_are_seeds_too(tmp_path):
    path = tmp_path / 'rows.jsonl'
    rows = [{'instruction': f'写{n}', 'input': '甲' * n, 'output': '乙'} for n in range(3)]
    path.write_text('\n'.join(map(json.dumps, rows)), 'utf-8')
    assert read_seeds(path)[2] == {
        'id': 'seed_task_2',
        'name': '',
        'instruction': '写2',
        'instances': [{'input': '甲甲', 'output': '乙'}],
        'is_classification': False,
    }


def test_two_tasks_may_share_an_id(tmp_path):
    path = tmp_path / 'seeds.jsonl'
    path.write_text('\n'.join([json.dumps(TASK)] * 3), 'utf-8')
    assert [task['id'] for task in read_seeds(path)] == ['seed_task_0'] * 3


WRONG = {
    'broken line': ('{"instruction": ', r'seeds\.jsonl:2: broken JSON at column'),
    'a list': ('[1]', r'seeds\.jsonl:2: a seed task is an object'),
    'no instruction': ({'instruction': None}, r'seeds\.jsonl:2: .*"instruction" must be text'),
    'blank instruction': ({'instruction': ' '}, r'seeds\.jsonl:2: .*"instruction" is empty'),
    'instances of text': ({'instances': 'x'}, r'seeds\.jsonl:2: .*"instances" must be a list'),
    'no instance': ({'instances': []}, r'seeds\.jsonl:2: .*"instances" must be a list'),
    'no object': ({'instances': ['x']}, r'seeds\.jsonl:2: each of "instances" is an object'),
    'no output': ({'instances': [{'input': ''}]}, r'seeds\.jsonl:2: .*lacks the field "output"'),
    'no input': ({'instances': [{'output': 'x'}]}, r'seeds\.jsonl:2: .*lacks the field "input"'),
    'blank output': (
        {'instances': [{'input': '', 'output': '\n'}]},
        r'seeds\.jsonl:2: .*"output" of an instance is empty',
    ),
    'number': (
        {'instances': [{'input': 3, 'output': 'x'}]},
        r'seeds\.jsonl:2: .*"input" must be text',
    ),
    'class': ({'is_classification': 'no'}, r'seeds\.jsonl:2: .*must be true or false'),
    'category': ({'category': 7}, r'seeds\.jsonl:2: .*"category" must be text'),
}


@pytest.mark.parametrize('name', WRONG)
def test_a_broken_seed_has_an_address(tmp_path, name):
    change, said = WRONG[name]
    second = change if isinstance(change, str) else json.dumps(TASK | change)
    path = tmp_path / 'seeds.jsonl'
    path.write_text('\n'.join([json.dumps(TASK), second, json.dumps(TASK)]), 'utf-8')
    with pytest.raises(ValueError, match=said) as caught:
        read_seeds(path)
    assert '\n' not in str(caught.value)


def test_a_missing_field_is_named(tmp_path):
    path = tmp_path / 'seeds.jsonl'
    for field in ('instruction', 'instances'):
        row = {key: value for key, value in TASK.items() if key != field}
        path.write_text(f'{json.dumps(TASK)}\n\n{json.dumps(row)}\n', 'utf-8')
        with pytest.raises(ValueError, match=rf'seeds\.jsonl:3: .*lacks the field "{field}"'):
            read_seeds(path)


def test_a_broken_array_has_an_address(tmp_path):
    path = tmp_path / 'seeds.json'
    path.write_text(f'[\n{json.dumps(TASK)},\n{json.dumps(TASK)}\n{json.dumps(TASK)}]', 'utf-8')
    with pytest.raises(ValueError, match=r'seeds\.json:4: broken JSON \(no comma between'):
        read_seeds(path)


def test_bytes_that_are_no_utf_8_have_an_address(tmp_path):
    line = json.dumps(TASK, ensure_ascii=False)
    path = tmp_path / 'seeds.jsonl'
    path.write_bytes(f'{line}\n'.encode() + line.encode('gb18030'))
    with pytest.raises(ValueError, match=r'seeds\.jsonl:2: the byte 0x.. is not UTF-8'):
        read_seeds(path)
    path.write_bytes(f'[{line},\n'.encode() + f'{line}]'.encode('gb18030'))
    with pytest.raises(ValueError, match=r'seeds\.jsonl:2: the byte 0x.. is not UTF-8'):
        read_seeds(path)


def test_too_few_seeds_are_refused(tmp_path):
    path = tmp_path / 'seeds.jsonl'
    path.write_text(json.dumps(TASK), 'utf-8')
    with pytest.raises(ValueError, match='holds one seed task alone'):
        read_seeds(path, shots=1)
    path.write_text('\n'.join([json.dumps(TASK)] * 4), 'utf-8')
    assert len(read_seeds(path, shots=4)) == 4
    with pytest.raises(ValueError, match='holds 4 seed tasks, but each prompt shows 5'):
        read_seeds(path, shots=5)
    path.write_text('[]', 'utf-8')
    with pytest.raises(ValueError, match='contains no seed task'):
        read_seeds(path)


def test_a_file_that_is_not_there_is_told(tmp_path):
    for path in (tmp_path / 'none.jsonl', tmp_path):
        with pytest.raises(ValueError, match='cannot be read'):
            read_seeds(path)
    (tmp_path / 'empty').write_text(' \n')
    with pytest.raises(ValueError, match='is empty'):
        read_seeds(tmp_path / 'empty')
