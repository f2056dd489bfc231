"""Deduplicating files: what stays, what goes and why, and what is refused."""

import json
import random
import sys

import pytest

from belle_jax.synthesis import dedupe
from belle_jax.texts.similarity import Index

SPRING = {'instruction': '请写一首关于春天的诗，不超过八行。', 'input': '', 'output': '春风'}
AUTUMN = {'instruction': '请写一首关于秋天的诗，不超过八行。', 'input': '', 'output': '落叶'}
COLD = {'instruction': '把下面的句子翻译成英文。', 'input': '今天很冷。', 'output': 'It is cold.'}
READ = {'instruction': '把下面的句子翻译成英文。', 'input': '我喜欢读书', 'output': 'I like books.'}
SUM = {'instruction': '17乘以6等于多少？', 'input': '', 'output': '102', 'source': {'page': 3}}


def lines(path):
    return [json.loads(line) for line in path.read_text('utf-8').splitlines()]


@pytest.fixture
def write(tmp_path):
    def write(name, rows):
        text = '\n'.join(json.dumps(row, ensure_ascii=False) for row in rows)
        (tmp_path / name).write_text(text + '\n', 'utf-8')
        return tmp_path / name

    return write


def test_the_first_row_stays_and_the_others_say_what_they_resemble(tmp_path, write):
    first = write('a.jsonl', [SUM, SPRING, COLD])
    second = tmp_path / 'b.json'
    second.write_text(json.dumps([AUTUMN, READ, SUM], ensure_ascii=False, indent=1), 'utf-8')
    account = dedupe.run([first, second], tmp_path / 'out.jsonl', compare='instruction')
    assert lines(tmp_path / 'out.jsonl') == [SUM, SPRING, COLD]
    removed = lines(tmp_path / 'out.removed.jsonl')
    assert [r['row'] for r in removed] == [AUTUMN, READ, SUM]
    assert [r['kept'] for r in removed] == [2, 3, 1]
    assert [r['score'] for r in removed] == [round(32 / 34, 4), 1.0, 1.0]
    assert removed[0]['nearest'] == SPRING['instruction']
    assert removed[0]['where'] == f'{second}:2'
    assert (account.read, account.kept, account.same, account.near) == (6, 3, 2, 1)
    assert account.groups == [(2, 1, SPRING['instruction']), (3, 1, COLD['instruction'])] + [
        (1, 1, SUM['instruction'])
    ]
    assert '6 rows read: 3 kept, 2 the same and 1 nearly the same' in str(account)
    assert account.asked_else == 1 and '1 of the removed had another input' in str(account)
    assert str(tmp_path / 'out.jsonl') in str(account)


@pytest.mark.parametrize(
    ('compare', 'threshold', 'kept'),
    [
        ('instruction', 0.7, [SPRING, COLD]),
        ('question', 0.7, [SPRING, COLD, READ]),
        ('question', 0.3, [SPRING, COLD, READ]),
        ('row', 0.95, [SPRING, AUTUMN, COLD, READ]),
        ('instruction', 1.0, [SPRING, AUTUMN, COLD]),
    ],
)
def test_what_is_compared_is_a_choice(tmp_path, write, compare, threshold, kept):
    path = write('a.jsonl', [SPRING, AUTUMN, COLD, READ])
    dedupe.run([path], tmp_path / 'o.json', threshold, compare=compare)
    # A name that does not end as JSON lines is an array.
    assert json.loads((tmp_path / 'o.json').read_text('utf-8')) == kept


@pytest.mark.parametrize(
    ('row', 'texts'),
    [
        (COLD, ('把下面的句子翻译成英文。', '把下面的句子翻译成英文。\n今天很冷。')),
        ({'input': '问', 'target': '答'}, ('问', '问', '问\n答')),
        (
            {
                'conversations': [
                    {'from': 'human', 'value': '一'},
                    {'from': 'gpt', 'value': '二'},
                    {'from': 'human', 'value': '三'},
                    {'from': 'gpt', 'value': '四'},
                ]
            },
            ('一', '一\n三', '一\n二\n三\n四'),
        ),
        (
            {
                'messages': [
                    {'role': 'system', 'content': '你是助手'},
                    {'role': 'user', 'content': '一'},
                    {'role': 'assistant', 'content': '二'},
                ]
            },
            ('一', '一', '一\n二'),
        ),
        (
            {'instruction': 'Human:一\nAssistant:二\nHuman:三\nAssistant:', 'output': '四'},
            ('一', '一\n三', '一\n二\n三\n四'),
        ),
        ({'text': '整段文字'}, ('整段文字', '整段文字', '整段文字')),
        (
            {'id': 's', 'instruction': '问', 'instances': [{'input': '入', 'output': '出'}]},
            ('问', '问\n入', '问\n入\n出'),
        ),
    ],
    ids=['alpaca', 'early BELLE', 'ShareGPT', 'OpenAI', 'multiturn', 'text', 'seed task'],
)
def test_every_layout_has_a_text_to_compare(row, texts):
    for compare, text in zip(('instruction', 'question', 'row'), texts):
        assert dedupe.compared(row, compare)[0] == text


def chat(*texts):
    roles = ('user', 'assistant') * len(texts)
    return {'messages': [{'role': role, 'content': text} for role, text in zip(roles, texts)]}


@pytest.mark.parametrize('exact', [dedupe.EXACT, 1])  # compared with all, and found by hashing
def test_what_asks_something_else_stays(tmp_path, write, monkeypatch, exact):
    monkeypatch.setattr(dedupe, 'BLOCK', 2)
    material = '春天来了，小草从土里钻出来，嫩嫩的，绿绿的。孩子们脱掉棉袄，跑到田野里放风筝。'
    task = '请把下面给出的这一个句子准确而通顺地翻译成英文，不要遗漏任何内容。'
    rows = [
        # One instruction with three inputs; a long instruction does not hide that they differ.
        *({'instruction': task, 'input': t, 'output': 'x'} for t in ('你好', '我饿了', '下雨吗')),
        # Nor does a long input hide that the instructions do.
        {'instruction': '概括大意。', 'input': material, 'output': '春天的孩子'},
        {'instruction': '译成英文：', 'input': material, 'output': 'Spring has come.'},
        # Conversations that begin alike and go on otherwise.
        chat('推荐一本讲历史的书。', '《万历十五年》。', '作者是谁？', '黄仁宇。'),
        chat('推荐一本讲历史的书。', '《史记》。', '有没有适合孩子的译本？', '有。'),
    ]
    again = [
        {'instruction': task, 'input': '你好！', 'output': 'y'},
        {'instruction': '概括大意：', 'input': material[:-1], 'output': 'y'},
        chat('推荐一本讲历史的书', '《明朝那些事儿》。', '作者是谁', '当年明月。'),
    ]
    account = dedupe.run([write('a.jsonl', rows + again)], tmp_path / 'o.jsonl', exact=exact)
    assert lines(tmp_path / 'o.jsonl') == rows
    assert [removed['kept'] for removed in lines(tmp_path / 'o.removed.jsonl')] == [1, 4, 6]
    assert account.asked_else == 0 and 'another input' not in str(account)
    # Comparing instructions alone is on request, and says what it costs.
    account = dedupe.run([tmp_path / 'o.jsonl'], tmp_path / 'i.jsonl', compare='instruction')
    assert (account.kept, account.same, account.asked_else) == (4, 3, 3)
    assert '3 of the removed had another input, or other questions' in str(account)


def test_seed_tasks_and_early_rows_are_compared_by_what_they_ask(tmp_path, write):
    seed = {'instruction': '翻译成英文', 'instances': [{'input': '早上好', 'output': 'Morning'}]}
    rows = [seed, seed | {'instances': [{'input': '再见', 'output': 'Bye'}]}]
    rows += [{'input': '翻译成英文\n早上好', 'target': 'Good morning'}]  # the same, said in one
    dedupe.run([write('a.jsonl', rows)], tmp_path / 'o.jsonl', on_bad_row='skip')
    assert lines(tmp_path / 'o.jsonl') == rows[:2]


def many(count, seed=0):
    """Rows of which a quarter are earlier ones with a few characters changed."""
    rng = random.Random(seed)
    signs = [chr(0x4E00 + n) for n in range(600)]
    texts = []
    for _ in range(count):
        text = [rng.choice(signs) for _ in range(rng.randint(8, 40))]
        if texts and rng.random() < 0.25:
            text = list(rng.choice(texts))
            for _ in range(rng.randint(0, len(text) // 3)):
                text[rng.randrange(len(text))] = rng.choice(signs)
        texts.append(''.join(text))
    return [{'instruction': text, 'output': str(n)} for n, text in enumerate(texts)]


def test_the_result_is_that_of_comparing_each_row_with_all_kept_ones(tmp_path, write):
    rows = many(2500)
    account = dedupe.run([write('a.jsonl', rows)], tmp_path / 'out.jsonl')
    index, kept = Index(), []
    for row in rows:
        if not index.first_over(row['instruction'], 0.7):
            index.add(row['instruction'])
            kept.append(row)
    assert lines(tmp_path / 'out.jsonl') == kept
    assert account.exact_until is None and account.recall == 1.0
    assert account.kept == len(kept) < 2200


def test_beyond_the_limit_hashing_goes_on_where_comparing_all_stopped(tmp_path, write):
    path = write('a.jsonl', many(2500))
    exact = dedupe.run([path], tmp_path / 'exact.jsonl')
    hashed = dedupe.run([path], tmp_path / 'hashed.jsonl', exact=700)
    assert hashed.exact_until in range(700, 700 + dedupe.BLOCK)
    assert hashed.recall >= 0.95
    assert exact.kept <= hashed.kept <= exact.kept + 5
    assert 'hashing found the candidates: at the threshold it finds 95% or more' in str(hashed)
    # Whom a removed row resembles is true in both, and the rows are in the same order.
    kept = lines(tmp_path / 'hashed.jsonl')
    assert [row['output'] for row in kept] == sorted((row['output'] for row in kept), key=int)
    for removed in lines(tmp_path / 'hashed.removed.jsonl'):
        assert kept[removed['kept'] - 1]['instruction'] == removed['nearest']
        index = Index()
        index.add(removed['nearest'])
        score = index.nearest(removed['row']['instruction']).score
        assert round(score, 4) == removed['score'] >= 0.7


def test_rows_without_a_token_are_kept_and_english_is_compared_by_words(tmp_path, write):
    rows = [
        {'instruction': 'List five healthy breakfast ideas', 'output': '1'},
        {'instruction': 'list 5 healthy breakfast ideas!', 'output': '2'},
        {'instruction': '?!', 'output': '3'},
        {'instruction': '?!', 'output': '4'},
    ]
    account = dedupe.run([write('a.jsonl', rows)], tmp_path / 'o.jsonl', tokens='words')
    assert [row['output'] for row in lines(tmp_path / 'o.jsonl')] == ['1', '3', '4']
    assert account.empty == 2


def test_a_models_tokens_may_be_compared(tmp_path, write):
    rows = [{'instruction': text, 'output': 'x'} for text in ('ab cd', 'ab ce', 'xy')]
    account = dedupe.run([write('a.jsonl', rows)], tmp_path / 'o.jsonl', 0.5, tokens=str.split)
    assert (account.kept, account.near) == (2, 1)


def test_unusable_rows_stop_the_run_or_are_counted(tmp_path, write):
    path = write('a.jsonl', [SPRING, {'instruction': 3, 'output': 'x'}, SUM])
    with pytest.raises(ValueError, match=r'a\.jsonl:2: the field "instruction".*--on_bad_row=skip'):
        dedupe.run([path], tmp_path / 'o.jsonl')
    assert [file.name for file in tmp_path.iterdir()] == ['a.jsonl']
    account = dedupe.run([path], tmp_path / 'o.jsonl', on_bad_row='skip')
    assert (account.read, account.kept, account.skipped) == (3, 2, {'broken field': 1})
    assert 'Skipped: broken field (1).' in str(account)
    with pytest.raises(ValueError, match=r'o\.jsonl is there already'):
        dedupe.run([path], tmp_path / 'o.jsonl', on_bad_row='skip')
    dedupe.run([path], tmp_path / 'o.jsonl', on_bad_row='skip', overwrite=True)


@pytest.mark.parametrize(
    ('settings', 'sentence'),
    [
        ({'threshold': 1.2}, 'threshold=1.2 must be from 0.1 to 1'),
        ({'threshold': 0.0}, 'threshold=0.0 must be from 0.1 to 1'),
        ({'compare': 'input'}, "compare='input' is unknown: choose question, instruction, row"),
        ({'on_bad_row': 'drop'}, "on_bad_row='drop' is unknown: choose error, skip"),
        ({'tokens': 'letters'}, "tokens='letters' is unknown: choose characters or words"),
        ({'removed': 'a.jsonl'}, r'a\.jsonl \(of --output\) is what --rows reads'),
        ({'output': 'a.jsonl'}, r'a\.jsonl \(of --output\) is what --rows reads'),
        ({'removed': 'o.jsonl'}, r'o\.jsonl \(of --output\) is what --output writes'),
        ({'paths': []}, 'there are no files to read'),
        ({'paths': ['a.jsonl', 'gone.jsonl']}, r'gone\.jsonl cannot be read'),
        ({'paths': ['none.jsonl'], 'on_bad_row': 'skip'}, 'no usable row: 1 rows read: 0 kept'),
    ],
)
def test_what_cannot_be_done_is_said_in_a_sentence(
    tmp_path, write, monkeypatch, settings, sentence
):
    monkeypatch.chdir(tmp_path)
    write('a.jsonl', [SPRING])
    write('none.jsonl', [{'unknown': 1}])
    with pytest.raises(ValueError, match=sentence):
        dedupe.run(**{'paths': ['a.jsonl'], 'output': 'o.jsonl', **settings})
    assert sorted(file.name for file in tmp_path.iterdir()) == ['a.jsonl', 'none.jsonl']


def test_nothing_here_imports_jax():
    import subprocess

    code = (
        'import sys; from belle_jax.synthesis import dedupe; '
        'from belle_jax.texts import bm25, minhash, similarity; sys.exit("jax" in sys.modules)'
    )
    assert subprocess.run([sys.executable, '-c', code], check=False).returncode == 0


def test_real_rows_of_several_layouts_go_through(tmp_path, shared):
    folder = shared / 'data'
    paths = [
        folder / 'belle' / 'zh_seed_tasks.json',
        folder / 'belle' / 'dev1K.json',
        folder / 'instructions' / 'alpaca_zh_demo.json',
        folder / 'instructions' / 'sharegpt_zh_1K_format.jsonl',
        folder / 'instructions' / 'alpaca_zh_demo.json',
    ]
    account = dedupe.run(paths, tmp_path / 'out.jsonl', on_bad_row='skip')
    assert account.read == account.kept + account.same + account.near + account.skipped.total()
    assert account.same >= 1000  # the file that was named twice
    again = dedupe.run([tmp_path / 'out.jsonl'], tmp_path / 'again.jsonl')
    assert again.kept == account.kept
    assert (tmp_path / 'again.jsonl').read_bytes() == (tmp_path / 'out.jsonl').read_bytes()
