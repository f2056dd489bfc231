"""The kinds: prompts depend on settings and index, replies become rows or named rejections."""

import collections
import dataclasses
import json
import random
import re
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

import api_replies
import english_replies
import kind_replies
from belle_jax.api.request import Reply
from belle_jax.data.records import layout, parse
from belle_jax.synthesis import KINDS, Settings, apply_rules, make
from belle_jax.synthesis.kinds.base import PLACEHOLDER, PROMPTS, Draw, fill, lines, own
from belle_jax.synthesis.kinds.evol import operators
from belle_jax.synthesis.kinds.math import final_answer, underived
from belle_jax.synthesis.settings import BELLE_STOP, READ_BY
from belle_jax.synthesis.sources import OWN_ENGLISH_SEEDS, read_categories, read_seeds

SEEDS = [
    {
        'instruction': f'给出第{number}个\n  词语的同义词： ',
        'instances': [{'input': '' if number % 2 else '惊人地', 'output': f'回答{number}'}],
    }
    for number in range(8)
]
ROWS = [
    {'id': 'a', 'instruction': '介绍一下北京。', 'input': '', 'output': '北京是中国的首都。'},
    {'id': 'b', 'instruction': '把{这句话}翻译成英文。', 'input': '你好', 'output': 'Hello'},
    {
        'id': 'c',
        'conversations': [
            {'from': 'human', 'value': '写一个求和的程序。'},
            {'from': 'assistant', 'value': 'print(1 + 2)'},
        ],
    },
]


def settings(**changes: Any) -> Settings:
    return Settings(**({'seeds': SEEDS, 'rows': ROWS, 'seed': 7} | changes))


def reply(text: str, index: int = 0, finish_reason: str | None = 'stop', error: str = '') -> Reply:
    return Reply(index, text, finish_reason, 100, 200, 0.001, error)


def rows(kind: str, text: str, index: int = 0, reason: str = 'stop', **changes: Any) -> list[dict]:
    found = make(kind, settings(**changes)).parse(reply(text, index, reason))
    return [candidate.row for candidate in found if candidate.row is not None]


def reasons(
    kind: str, text: str, index: int = 0, reason: str = 'stop', **changes: Any
) -> list[str]:
    found = make(kind, settings(**changes)).parse(reply(text, index, reason))
    return [candidate.rejected for candidate in found]


def filtered(kind: str, row: dict) -> str:
    return apply_rules(row, make(kind, settings()).rules)[1]


# --------------------------------------------------------------------------- all kinds


@pytest.mark.parametrize('name', KINDS)
def test_a_prompt_depends_on_settings_and_index_alone(name: str) -> None:
    first = [make(name, settings()).prompt(index) for index in range(3)]
    kind = make(name, settings())
    assert [kind.prompt(index) for index in (2, 0, 1)] == [first[2], first[0], first[1]]
    assert len(set(first)) == 3
    if name != 'label':
        other = make(name, settings(seed=8))
        assert [other.prompt(index) for index in range(3)] != first
    assert not re.search(r'\{[a-z_]+\}', first[0])  # every placeholder is filled


@pytest.mark.parametrize('name', KINDS)
def test_refusals_nothing_and_errors_are_counted_once_under_their_own_names(name: str) -> None:
    for text in (
        '对不起，作为一个AI语言模型，我无法完成这个请求。',
        "I'm sorry, but I can't help with that request.",
    ):
        assert reasons(name, text) == ['refusal']
    kind = make(name, settings())
    assert [c.rejected for c in kind.parse(reply('  \n'))] == ['empty reply']
    given_up = kind.parse(reply('', error='server error 500, 8 attempts'))
    assert [(c.row, c.rejected, c.detail) for c in given_up] == [
        (None, 'request given up', 'server error 500, 8 attempts')
    ]


@pytest.mark.parametrize('name', KINDS)
def test_no_reply_makes_a_parser_fail_or_say_nothing(name: str) -> None:
    kind = make(name, settings())
    pieces = [
        '###',
        '\n',
        '```',
        '4. 指令:',
        '4. 输入：',
        '输出:',
        '用户：',
        '助手：',
        '题目：',
        '解答：',
    ]
    pieces += [
        '答案：',
        '3=4',
        '**',
        '---',
        '<无输入>',
        '5.',
        '\x00',
        '\ud83d',
        'generation',
        '对话1：',
    ]
    draw = Draw(0, 0, name)
    for index in range(300):
        text = ''.join(draw.one(pieces) for _ in range(draw.number(1, 12)))
        for reason in ('stop', 'length', None):
            found = kind.parse(reply(text, index % 3, reason))
            assert found
            assert all((candidate.row is None) == bool(candidate.rejected) for candidate in found)


@pytest.mark.parametrize('name', KINDS)
def test_a_bad_servers_replies_give_200_rows_that_training_reads(name: str) -> None:
    old = [
        {'id': str(n), 'instruction': f'说说第{n}种茶。', 'input': '', 'output': f'它排在第{n}。'}
        for n in range(400)
    ]
    kind = make(name, settings(rows=old))
    answer = getattr(api_replies if name == 'self_instruct' else kind_replies, name)
    kept, lost, index = [], collections.Counter(), 0
    while len(kept) < 200 and index < 400:
        text, finish_reason = answer(kind.body(index), random.Random(f'{name} {index}'))
        for candidate in kind.parse(reply(text, index, finish_reason)):
            row, reason = candidate.row, candidate.rejected
            if row is not None:
                row, reason = apply_rules(row, kind.rules)
            if row is None:
                lost[reason] += 1
            else:
                kept.append(row)
        index += 1
    assert len(kept) >= 200
    expected = {'refusal'} | {
        'self_instruct': {'truncated'},
        'multiturn': set(),
        'dialogue': {'unknown speaker'},
        'math': {'truncated', 'wrong arithmetic', 'missing label'},
        'evol': {'unchanged', 'truncated'},
        'label': {'unknown label'},
    }[name]
    assert expected <= set(lost), lost
    assert sum(lost.values()) < 0.3 * (len(kept) + sum(lost.values())), lost
    for row in kept:
        record, unanswered = parse(row, layout(row))
        assert record.messages[-1]['role'] == 'assistant' and not unanswered


@pytest.mark.parametrize('name', KINDS)
def test_english_is_asked_for_in_english_and_kept(name: str) -> None:
    old = [
        {'id': str(n), 'instruction': f'Name tea number {n}.', 'input': '', 'output': f'Tea {n}.'}
        for n in range(400)
    ]
    seeds = read_seeds(OWN_ENGLISH_SEEDS)
    kind = make(name, Settings(seeds=seeds, rows=old, language='en', seed=7))
    chinese = make(name, settings(rows=ROWS[:1] * 400))
    kept, lost = [], collections.Counter()
    for index in range(300):
        prompt = kind.prompt(index)
        # A seed may ask for a translation.
        assert not re.search('[\u4e00-\u9fff]', prompt) or name in ('self_instruct', 'multiturn')
        assert not re.search(r'\{[a-z_]+\}', prompt)
        text, reason = getattr(english_replies, name)(kind.body(index), random.Random(index))
        for candidate in kind.parse(reply(text, index, reason)):
            row, rejected = candidate.row, candidate.rejected
            if row is not None:
                row, rejected = apply_rules(row, kind.rules)
            lost[rejected] += row is None
            kept += [row] if row is not None else []
    assert len(kept) >= 240 and sum(lost.values()) < 0.25 * len(kept), lost
    expected = {'math': 'wrong arithmetic', 'dialogue': 'unknown speaker', 'evol': 'unchanged'}
    assert {'refusal', expected.get(name, 'refusal')} <= set(lost), lost
    for row in kept:
        assert parse(row, layout(row))[0].messages[-1]['role'] == 'assistant'
        assert not re.search('[\u3000-\u9fff\uff00-\uffef]', json.dumps(row, ensure_ascii=False))
    # What differs from request to request is drawn as for Chinese.
    assert kind.most_rows == chinese.most_rows and kind.requests == chinese.requests


def test_the_two_languages_stand_side_by_side() -> None:
    names = {path.name for path in PROMPTS.iterdir() if '_en.' not in path.name}
    assert {path.name.replace('_en.', '.') for path in PROMPTS.glob('*_en.*')} == names
    for name in names:
        zh, en = (own(name, language).read_text('utf-8') for language in ('zh', 'en'))
        assert set(PLACEHOLDER.findall(zh)) == set(PLACEHOLDER.findall(en)), name
        assert not re.search('[\u4e00-\u9fff]', en), name
        if name != 'topics.txt':
            assert len(zh.splitlines()) == len(en.splitlines()), name
    sorts = [[(o.name, o.sort) for o in operators(language)] for language in ('zh', 'en')]
    assert sorts[0] == sorts[1]


@pytest.mark.parametrize('name', KINDS)
def test_the_table_of_flags_says_what_each_kind_reads(name: str) -> None:
    read: set[str] = set()

    class Watched(Settings):
        def __getattribute__(self, field: str) -> Any:
            read.add(field)
            return super().__getattribute__(field)

    watched = Watched(seeds=SEEDS, rows=ROWS)
    read.clear()
    kind = make(name, watched)
    answer = getattr(api_replies if name == 'self_instruct' else kind_replies, name)
    for index in range(3):
        text, reason = answer(kind.body(index), random.Random(index))
        for candidate in kind.parse(reply(text, index, reason)):
            if candidate.row and kind.compared(candidate.row):
                read.add('seeds')  # they are compared with
    assert kind.most_rows
    fields = {field.name for field in dataclasses.fields(Settings)}
    read_by = {n: r.split() for names, r in READ_BY.items() for n in names.split()}
    table = {n for n in fields & set(read_by) if {name, 'generate'} & set(read_by[n])}
    assert read & set(read_by) == table


JSON_ROWS = {
    'self_instruct': [
        {'instruction': f'说出第{n}种“茶”的\n产地。', 'input': '绿茶{a}', 'output': f'["产地{n}"]'}
        for n in range(3)
    ],
    'evol': [{'instruction': '用一百字介绍北京。', 'input': '', 'output': '北京是首都。'}] * 3,
    'math': [
        {'question': f'{n}加5是多少？', 'solution': f'{n}+5={n + 5}', 'answer': f'{n + 5}'}
        for n in range(3)
    ],
    'multiturn': [
        {
            'messages': [
                {'role': role, 'content': f'{role}：第{n}句\n用户：不是标记'}
                for n, role in enumerate(('user', 'assistant') * 2)
            ]
        }
    ]
    * 3,
    'dialogue': [
        {'speaker': ('林秀兰', '子航')[n % 2], 'text': f'这是第{n}句话。'} for n in range(6)
    ],
    'label': [{'category': 'open qa', 'reason': 'not closed qa'}],
}
PAIR = {'a': {'name': '林秀兰', 'about': '外婆'}, 'b': {'name': '周子航', 'about': '外孙'}}


@pytest.mark.parametrize('name', KINDS)
def test_json_with_the_right_fields_is_read_like_labels(name: str) -> None:
    rows_of_json: Any = JSON_ROWS[name]
    changes: Any = {'characters': [PAIR]}
    text = json.dumps(rows_of_json, ensure_ascii=False)
    want = rows(name, text, **changes)
    assert len(want) == (1 if name in ('dialogue', 'label') else 3)
    if name in ('self_instruct', 'evol'):
        fields = ('instruction', 'input', 'output')
        assert [{f: row[f] for f in fields} for row in want] == rows_of_json
    if name == 'multiturn':
        turn = rows_of_json[0]['messages'][1]
        assert want[0]['conversations'][1] == {'from': 'assistant', 'value': turn['content']}
    if name == 'dialogue':
        assert want[0]['output'].startswith('林秀兰：这是第0句话。\n周子航：这是第1句话。')
    if name == 'label':
        assert want == [ROWS[0] | {'category': 'open qa'}]
    pretty = json.dumps(rows_of_json, ensure_ascii=False, indent=2)
    lines_of_json = '\n'.join(json.dumps(row, ensure_ascii=False) for row in rows_of_json)
    for other in (
        pretty,
        lines_of_json,
        f'```json\n{pretty}\n```',
        f'好的，以下是结果：\n\n```json\n{text}\n```\n希望对您有帮助！',
        json.dumps({'tasks' if name != 'dialogue' else 'dialogue': rows_of_json}),
        f'```\n{lines_of_json}\n```',
    ):
        assert rows(name, other, **changes) == want, other
        assert set(reasons(name, other, **changes)) == {''}


@pytest.mark.parametrize('name', ['self_instruct', 'evol', 'math', 'multiturn'])
@pytest.mark.parametrize('reason', ['length', 'stop'])  # a server may not say that it cut
def test_json_that_was_cut_gives_its_whole_objects(name: str, reason: str) -> None:
    for before in ('', '```json\n'):
        text = before + json.dumps(JSON_ROWS[name], ensure_ascii=False, indent=1)
        cut = text[: text.rindex('{') + 30] if name != 'multiturn' else text[: text.rindex('me')]
        assert reasons(name, cut, reason=reason) == ['', '', 'truncated']
        assert rows(name, cut, reason=reason) == rows(name, text)[:2]


def test_a_cut_conversation_in_json_keeps_its_whole_turns() -> None:
    text = json.dumps(JSON_ROWS['multiturn'][0]['messages'] * 2, ensure_ascii=False)
    (whole,) = rows('multiturn', text)
    (cut,) = rows('multiturn', text[:-30], reason='length')
    assert len(whole['conversations']) == 8 and cut['conversations'] == whole['conversations'][:6]


@pytest.mark.parametrize(
    ('text', 'want'),
    [
        ('[{"instruction": "写诗", "output": "好"}]', ['']),  # no input
        ('[{"指令": "写诗", "输入": null, "输出": {"诗": 1}}]', ['']),
        ('{"instruction": "写诗", "input": "无", "output": "好\n的"}', ['']),  # a raw line end
        ('[{"instruction": "写诗", "input": ""}]', ['missing label']),
        ('[{"instruction": "写诗", "input": "", "output": " "}]', ['empty field']),
        (
            '[{"instruction": "说"好"", "output": "a"},\n {"instruction": "b", "output": "c"}]',
            ['broken JSON', ''],
        ),
        ('{"title": "写诗", "text": "好"}', ['no labels']),
        ('[1, 2', ['no labels']),
    ],
)
def test_json_with_something_wrong_is_counted_by_name(text: str, want: list[str]) -> None:
    assert reasons('self_instruct', text) == want


def test_json_inside_a_task_stays_text() -> None:
    inner = '[\n{"instruction": "a", "output": "b"}\n]'
    for text in (
        f' 列出一个数据集。\n4. 输入: <无输入>\n4. 输出:\n{inner}',
        f' 把{{"instruction": "x"}}改写成表格。\n4. 输入: <无输入>\n4. 输出:\n{inner}',
        f'好的：\n4. 指令: 列出一个数据集。\n4. 输入:\n{inner}\n4. 输出:\n{inner}',
    ):
        (row,) = rows('self_instruct', text)
        assert row['output'] == inner
    (row,) = rows('multiturn', TALK.replace('再看。', f'再看：\n{inner}'))
    assert row['conversations'][-1]['value'].endswith(inner)


def test_an_english_remainder_is_not_wrong_arithmetic() -> None:
    text = 'Problem: How many crates of 5 hold 17 jars?\nSolution: {}\nAnswer: 3 crates, 2 left'
    for working, wrong in (
        ('17÷5=3……2', ''),
        ('17 ÷ 5 = 3 remainder 2', ''),
        ('17÷5=3 R2', ''),
        ('17÷5=3, with 2 left over', ''),
        ('17÷5=3 remainder 1, so 2', 'wrong arithmetic'),
        ('3×5=16 (jars), 2', 'wrong arithmetic'),
    ):
        (row,) = rows('math', text.format(working), language='en')
        assert row['output'].endswith('\nAnswer: 3 crates, 2 left')
        kind = make('math', settings(language='en'))
        assert apply_rules(row, kind.rules)[1] == wrong, working


def test_unknown_kinds_and_choices_are_named() -> None:
    with pytest.raises(ValueError, match="kind='maths' is unknown: set --kind to one of self_ins"):
        make('maths', settings())
    with pytest.raises(ValueError, match="api='complete' is unknown: set --api to chat or compl"):
        settings(api='complete')
    with pytest.raises(ValueError, match='max_tokens=0 asks for nothing: set --max_tokens to 1'):
        settings(max_tokens=0)
    with pytest.raises(ValueError, match='turns=3,2: the fewest questions'):
        settings(turns=(3, 2))
    for name in ('evol', 'label'):
        with pytest.raises(ValueError, match=r'name their file in --rows\.'):
            make(name, settings(rows=()))


def test_draws_are_the_same_everywhere_and_for_ever() -> None:
    draw = Draw(42, 7, 'self_instruct')
    assert [draw.number(0, 99) for _ in range(6)] == [13, 8, 92, 16, 85, 8]
    assert draw.some('甲乙丙丁戊', 3) == ['乙', '丙', '戊']
    assert sorted(Draw(1, 1, '').some(range(5), 9)) == [0, 1, 2, 3, 4]


def test_what_is_filled_in_is_not_searched_for_placeholders() -> None:
    assert fill('{a}{b}{c}', a='{b}', b='x') == '{b}x{c}'


# -------------------------------------------------------------------------- self-instruct


def test_self_instruct_shows_seeds_in_belles_format() -> None:
    prompt = make('self_instruct', settings()).prompt(0)
    head, *shots, last = prompt.split('###\n')
    assert head.endswith('任务列表：\n') and '请编写10个新任务' in head and '编号从4写到13' in head
    assert last == '4. 指令:'
    assert len(shots) == 3 and len(set(shots)) == 3
    for number, shot in enumerate(shots, 1):
        match = re.fullmatch(
            r'(\d). 指令: 给出第(\d)个 词语的同义词\n\1. 输入:\n(.+)\n\1. 输出:\n回答\2\n', shot
        )
        assert match and int(match[1]) == number
        assert match[3] == ('<无输入>' if int(match[2]) % 2 else '惊人地')


def test_categories_and_topics_change_from_request_to_request() -> None:
    own = read_categories()
    kind = make('self_instruct', settings(categories=own))
    named = {name for name in (c['zh'] for c in own) for n in range(40) if name in kind.prompt(n)}
    assert named == {category['zh'] for category in own}


def test_self_instruct_reads_tasks_and_cleans_them() -> None:
    text = (
        ' GPT应该列出三种水果。\n4. 输入: <无输入>\n4. 输出: 苹果、香蕉、桃子\n###\n5. 指令: 看图'
    )
    found = rows('self_instruct', text, reason='length')
    assert found == [
        {'instruction': 'GPT应该列出三种水果。', 'input': '', 'output': '苹果、香蕉、桃子'}
    ]
    assert reasons('self_instruct', text, reason='length') == ['', 'truncated']
    kept, reason = apply_rules(found[0], make('self_instruct', settings()).rules)
    assert kept and (kept['instruction'], reason) == ('列出三种水果。', '')


def test_belles_prompt_file_works_and_its_written_line_ends_are_line_ends(tmp_path: Path) -> None:
    file = tmp_path / 'prompt_cn.txt'
    file.write_text('请提供10个任务指令。\\n\\\n1.不要重复动词。\\n\\\n任务的列表：\\n', 'utf-8')
    prompt = make('self_instruct', settings(prompt_file=str(file))).prompt(0)
    assert prompt.startswith('请提供10个任务指令。\n1.不要重复动词。\n任务的列表：\n###\n1. 指令: ')
    assert '\\' not in prompt


def test_a_bad_prompt_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / 'prompt.txt'
    with pytest.raises(ValueError, match=r'prompt\.txt cannot be read \(no such file'):
        make('self_instruct', settings(prompt_file=str(file)))
    file.write_bytes('指令'.encode('gbk'))
    with pytest.raises(ValueError, match=r'prompt\.txt is not UTF-8'):
        make('self_instruct', settings(prompt_file=str(file)))
    file.write_text(' \n')
    with pytest.raises(ValueError, match=r'prompt\.txt is empty'):
        make('self_instruct', settings(prompt_file=str(file)))
    file.write_text('改写：{instruction}')
    with pytest.raises(ValueError, match=r'lacks \{operator\}: this kind of data puts'):
        make('evol', settings(prompt_file=str(file)))


def test_too_few_seeds_for_a_prompt_are_an_error() -> None:
    with pytest.raises(ValueError, match='num_prompt_instructions=3: .* --seeds holds 1'):
        make('self_instruct', settings(seeds=SEEDS[:1]))


def test_english_seeds_make_english_prompts_and_rows() -> None:
    seed = {'instruction': 'Name a\ncolour:', 'input': '', 'output': 'red'}
    kind = make('self_instruct', settings(seeds=[seed] * 3, language='en'))
    assert kind.prompt(0).endswith('###\n4. Instruction:')
    assert '1. Instruction: Name a colour\n1. Input:\n<noinput>\n' in kind.prompt(0)
    assert not re.search('[\u4e00-\u9fff]', kind.prompt(0))
    found = kind.parse(reply(' Name a fruit.\n4. Input: <noinput>\n4. Output: An apple.'))
    assert found[0].row == {'instruction': 'Name a fruit.', 'input': '', 'output': 'An apple.'}
    assert apply_rules(found[0].row or {}, kind.rules)[1] == ''


def test_bodies_carry_belles_request_settings() -> None:
    kind = make('self_instruct', settings(api='completion', model_name='text-davinci-003'))
    assert kind.body(0) == {
        'model': 'text-davinci-003',
        'prompt': kind.prompt(0),
        'n': 1,
        'max_tokens': 1024,
        'temperature': 1.0,
        'top_p': 1.0,
        'stop': ['\n20.', '\n20．', '\n20、'],
        'logit_bias': {'50256': -100},
    }
    chat = make('self_instruct', settings(api='chat', stop=BELLE_STOP, max_tokens=2048)).body(1)
    assert chat['messages'] == [{'role': 'user', 'content': kind.prompt(1)}]
    assert chat['model'] == 'gpt-4.1-mini' and chat['max_tokens'] == 2048
    assert chat['stop'] == ['\n20', '20.'] and 'logit_bias' not in chat and 'prompt' not in chat
    assert 'stop' not in make('math', settings()).body(0)  # "5×4=20." does not end a list
    # Today's completion models have another token 50256; whoever wants it, or other fields, asks.
    asked = {'logit_bias': {'50256': -100}, 'top_p': None, 'top_k': 20}
    local = make('self_instruct', settings(api='completion', model_name='qwen')).body(0)
    chosen = settings(api='completion', model_name='qwen', request=asked)
    assert 'logit_bias' not in local
    assert make('self_instruct', chosen).body(0) == {
        **{name: value for name, value in local.items() if name != 'top_p'},
        'logit_bias': {'50256': -100},
        'top_k': 20,
    }
    with pytest.raises(ValueError, match='name one with --model_name'):
        settings(api='completion')
    json.dumps(kind.body(0))


@pytest.mark.parametrize('file', ['belle/zh_seed_tasks.json', 'instructions/seed_tasks.jsonl'])
def test_the_real_seed_files_make_prompts(shared: Path, file: str) -> None:
    found = read_seeds(shared / 'data' / file)
    language = 'zh' if 'zh' in file else 'en'
    kind = make('self_instruct', Settings(seeds=found, language=language))
    prompts = {kind.prompt(index) for index in range(200)}
    assert len(prompts) == 200
    assert all(len(re.findall('^###$', prompt, re.M)) == 4 for prompt in prompts)


# ------------------------------------------------------------------------ conversations

TALK = """用户：番茄的叶子发黄，怎么办？
助手：先看发黄的是老叶还是新叶：老叶多半是缺氮，新叶多半是缺铁。
用户：是下面的老叶。
助手：那就追一次稀薄的氮肥，一周以后再看。"""


def test_a_conversation_becomes_a_row_that_training_reads() -> None:
    (row,) = rows('multiturn', f'好的，对话如下：\n\n{TALK}')
    assert row['conversations'][2] == {'from': 'human', 'value': '是下面的老叶。'}
    assert [turn['from'] for turn in row['conversations']] == ['human', 'assistant'] * 2
    assert len(parse(row, layout(row))[0].messages) == 4
    assert filtered('multiturn', row) == ''
    kind = make('multiturn', settings())
    assert kind.compared(row) == '番茄的叶子发黄，怎么办？\n是下面的老叶。'


def test_names_numbers_bold_and_colons_of_turns_vary() -> None:
    want = rows('multiturn', TALK)
    for other in (
        TALK.replace('用户：', '用户:').replace('助手：', '助手 :'),
        TALK.replace('用户', 'Human').replace('助手', 'Assistant'),
        TALK.replace('用户：', '**用户：** ').replace('助手：', '**助手**：'),
        f'```\n{TALK}\n```',
        f'对话1：\n{TALK}',
        '助手：您好，请问有什么可以帮您？\n' + TALK,
        TALK + '\n用户：谢谢！',
    ):
        assert rows('multiturn', other) == want, other


def test_several_conversations_in_a_reply_are_several_rows() -> None:
    assert len(rows('multiturn', f'{TALK}\n###\n{TALK}\n\n**对话3：**\n{TALK}')) == 3


def test_a_cut_conversation_keeps_its_whole_turns() -> None:
    longer = TALK + '\n用户：用什么肥？\n助手：可以用腐熟的豆'
    assert rows('multiturn', longer, reason='length') == rows('multiturn', TALK)
    assert reasons('multiturn', TALK, reason='length') == ['truncated']


def test_conversations_that_are_none_are_rejected() -> None:
    one = '用户：番茄叶子发黄怎么办？\n助手：先看是哪里的叶子。'
    assert reasons('multiturn', one) == ['too few turns']
    assert rows('multiturn', one, turns=(1, 1)) != []
    assert reasons('multiturn', TALK.replace('用户：是', '助手：是')) == ['turns out of order']
    assert reasons('multiturn', TALK.replace('是下面的老叶。', '')) == ['empty turn']
    assert reasons('multiturn', '番茄的叶子发黄，多半是缺肥。') == ['no labels']


def test_dialogue_rows_hold_two_given_characters(tmp_path: Path) -> None:
    pair = {
        'a': {'name': '林秀兰', 'about': '退休教师'},
        'b': {'name': '周子航', 'about': '她的外孙'},
        'scenes': ['外婆学用手机挂号'],
    }
    kind = make('dialogue', settings(characters=[pair]))
    assert '角色一：林秀兰，退休教师' in kind.prompt(0) and '外婆学用手机挂号' in kind.prompt(0)
    text = (
        '地点：客厅\n**林秀兰**：子航，这个号我挂成下个月了。\n周子航（探头）：我看看，点这里就能退。\n'
        '秀兰：哎呀，字太小。\n周子航：我帮您调大。'
    )
    (row,) = rows('dialogue', text, characters=[pair])
    assert row == {
        'instruction': '根据以下角色信息完成一段对话\n林秀兰，退休教师。\n周子航，她的外孙。\n'
        '情景：外婆学用手机挂号',
        'input': '',
        'output': '林秀兰：子航，这个号我挂成下个月了。\n周子航：我看看，点这里就能退。\n'
        '林秀兰：哎呀，字太小。\n周子航：我帮您调大。',
    }
    assert filtered('dialogue', row) == '' and kind.compared(row) == row['output']
    cut = text + '\n林秀兰：真是个好孩'
    assert rows('dialogue', cut, reason='length', characters=[pair]) == [row]
    third = text + '\n妈妈：吃饭了！'
    assert reasons('dialogue', third, characters=[pair]) == ['unknown speaker']
    alone = re.sub('周子航.*?：', '林秀兰：', text)
    assert reasons('dialogue', alone, characters=[pair]) == ['too few turns']


def test_our_own_characters_are_forty_pairs_of_different_people() -> None:
    text = (PROMPTS / 'characters.jsonl').read_text('utf-8')
    pairs = [json.loads(line) for line in text.splitlines()]
    names = [pair[side]['name'] for pair in pairs for side in 'ab']
    assert len(pairs) == 40 and len(set(names)) == 80
    assert all(len(pair['scenes']) == 3 for pair in pairs)
    broken = [{'a': {'name': '甲'}, 'b': {'name': '甲'}}]
    with pytest.raises(ValueError, match='--characters: pair 1 does not have two names that diff'):
        make('dialogue', settings(characters=broken))


# ---------------------------------------------------------------------------- mathematics

PROBLEM = """###
题目：书店运来8箱书，每箱24本，卖出95本，还剩多少本？
解答：
一共有：8×24=192（本）
还剩：192-95=97（本）
答案：97本
###
**题目2**：一根绳子长17米，每5米剪一段，可以剪几段，还剩几米？
**解答**：17÷5=3（段）……2（米）
**答案**：3段，还剩2米
"""


def test_problems_become_rows_whose_last_line_is_the_answer() -> None:
    first, second = rows('math', PROBLEM)
    assert first == {
        'instruction': '书店运来8箱书，每箱24本，卖出95本，还剩多少本？',
        'input': '',
        'output': '一共有：8×24=192（本）\n还剩：192-95=97（本）\n答案：97本',
    }
    assert [final_answer(row['output']) for row in (first, second)] == ['97本', '3段，还剩2米']
    assert [filtered('math', row) for row in (first, second)] == ['', '']


@pytest.mark.parametrize(
    ('old', 'new', 'reason'),
    [
        ('8×24=192', '8×24=182', 'wrong arithmetic'),
        ('192-95=97', '192-95=107', 'wrong arithmetic'),
        ('答案：97本', '答案：98本', 'answer not derived'),
        ('答案：97本', '答案：192-95=97（本）', 'no final answer'),
        (
            '答案：97本',
            '答案：还剩'
            + '九十七本书，' * 4
            + '这是从总数里去掉卖出的以后书架上留下来的全部本数，也就是所求的结果，请再核对',
            'no final answer',
        ),
    ],
)
def test_wrong_problems_are_rejected_by_name(old: str, new: str, reason: str) -> None:
    row = rows('math', PROBLEM.replace(old, new))[0]
    assert filtered('math', row) == reason


def test_problems_without_an_answer_or_cut_are_rejected() -> None:
    assert reasons('math', PROBLEM.replace('答案：97本\n', '')) == ['missing label', '']
    assert reasons('math', PROBLEM[:-8], reason='length') == ['', 'truncated']


def test_the_final_answer_is_read_by_its_shape() -> None:
    assert final_answer('5+3=8\n答案：8个 ') == '8个'
    assert final_answer('5+3=8\n所以答案是8个。') == ''
    assert underived('1,200÷3=400\n答案：400元') == set()
    assert underived('2÷4=0.5\n答案：0.50') == set()
    assert underived('12÷3=4\n答案：5') == {Fraction(5)}


def test_lists_of_the_prompts_are_long_and_without_doubles() -> None:
    for name, fewest in (
        ('topics', 100),
        ('users', 30),
        ('math_topics', 50),
        ('math_settings', 40),
    ):
        entries = lines(name)
        assert len(entries) == len(set(entries)) >= fewest, name
    assert all(line.count('\t') == 1 for line in lines('math_topics'))


# ------------------------------------------------------------------------------ evolution


def test_each_row_meets_every_operator_before_one_comes_again() -> None:
    kind = make('evol', settings())
    count = len(operators())
    assert count >= 8 and {operator.sort for operator in operators()} == {'deepen', 'widen'}
    for number in range(len(ROWS)):
        prompts = [kind.prompt(number + turn * len(ROWS)) for turn in range(count)]
        used = [o.name for prompt in prompts for o in operators() if o.text in prompt]
        assert sorted(used) == sorted(operator.name for operator in operators())
    assert '把{这句话}翻译成英文。' in kind.prompt(1) and '\n你好\n' in kind.prompt(1)
    assert '写一个求和的程序。' in kind.prompt(2)
    wide = make('evol', settings(evolve='widen'))
    widening = [o.text for o in operators() if o.sort == 'widen']
    assert all(any(text in wide.prompt(n) for text in widening) for n in range(20))


def test_evolved_rows_name_their_origin() -> None:
    text = '指令：用一百字向外国游客介绍北京，并说出两个理由。\n输入：无\n输出：北京是一座古都。'
    (row,) = rows('evol', text, index=3)
    assert row['instruction'] == '用一百字向外国游客介绍北京，并说出两个理由。'
    assert row['evolved_from'] == 'a' and row['operator'] in {o.name for o in operators()}
    assert filtered('evol', row) == ''
    assert rows('evol', f'```markdown\n{text}\n```', index=3) == [row]
    on = text.removeprefix('指令：')
    assert rows('evol', on, index=3) == [row]


def test_what_did_not_evolve_is_rejected_by_name() -> None:
    same = '指令：介绍一下北京！\n输入：<无输入>\n输出：北京是首都。'
    assert reasons('evol', same) == ['unchanged']
    assert reasons('evol', same, index=1) == ['']
    talks = '指令：请按照改写方式回答原指令。\n输入：无\n输出：好的。'
    assert reasons('evol', talks) == ['talks about the prompt']
    assert reasons('evol', same, reason='length') == ['truncated']


# --------------------------------------------------------------------------------- labels


@pytest.mark.parametrize(
    ('text', 'category'),
    [
        ('open qa', 'open qa'),
        ('Open_QA。', 'open qa'),
        ('**closed\xa0qa**', 'closed qa'),
        ('类别：translation', 'translation'),
        ('翻译', 'translation'),
        ('- math\n因为它要求计算。', 'math'),
        ('这条指令属于“role play”，因为要求以诗人的口吻说话。', 'role play'),
        ('```\ncode\n```', 'code'),
        ('答案是 extract，而不是 summarization', None),
        ('generation（创作生成）', 'generation'),
    ],
)
def test_labels_are_read_however_they_are_written(text: str, category: str | None) -> None:
    found = make('label', settings()).parse(reply(text))
    assert [(c.row or {}).get('category') for c in found] == [category]


@pytest.mark.parametrize('text', ['mathematics', '其他', 'qa', '我认为是聊天类'])
def test_an_unknown_label_is_counted_with_what_was_said(text: str) -> None:
    (found,) = make('label', settings()).parse(reply(text))
    assert (found.row, found.rejected, found.detail) == (None, 'unknown label', text)


def test_several_labels_are_ambiguous() -> None:
    assert reasons('label', '可能是 math，也可能是 code。') == ['ambiguous label']


def test_labels_join_their_row_or_stand_apart() -> None:
    assert rows('label', 'code', index=2) == [ROWS[2] | {'category': 'code'}]
    assert 'category' not in ROWS[2]
    assert rows('label', 'code', index=2, apart=True) == [{'id': 'c', 'category': 'code'}]
    kind = make('label', settings())
    assert kind.requests == 3 and make('math', settings()).requests is None


def test_the_label_prompt_shows_all_categories_and_not_too_much_of_a_row() -> None:
    own = [{'name': 'a b', 'zh': '甲', 'definition': '第一'}, {'name': 'c', 'zh': '乙'}]
    long = [{'instruction': '写' * 5000, 'input': '', 'output': '字' * 5000}]
    prompt = make('label', settings(categories=own, rows=long)).prompt(0)
    assert '- a b（甲）：第一\n- c（乙）：\n' in prompt and '一共有2个' in prompt
    assert 1200 <= prompt.count('写') < 1210 and 400 <= prompt.count('字') < 410
    with pytest.raises(ValueError, match='a category is called by punctuation alone'):
        make('label', settings(categories=[{'name': '!?', 'zh': '甲'}, own[1]]))


def test_labels_answered_truly_agree_with_the_real_classes(shared: Path) -> None:
    text = (shared / 'data/belle/eval_set.json').read_text('utf-8')
    asked = [json.loads(line) for line in text.splitlines()]
    found = [{'instruction': each['question'], 'output': each['std_answer']} for each in asked]
    kind = make('label', settings(rows=found))
    for index, each in enumerate(asked):  # as written there: closed qa with a no-break space
        (candidate,) = kind.parse(reply(each['class'], index))
        assert candidate.row and candidate.row['category'] == each['class'].replace('\xa0', ' ')
    assert len({kind.prompt(index) for index in range(len(asked))}) > 990
