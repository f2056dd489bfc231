"""What a run keeps, when it has enough, what its line says, and to whom a journal belongs."""

import json
from typing import Any

import pytest

from belle_jax.api import Counters, Reply
from belle_jax.api.session import Live
from belle_jax.synthesis import kinds
from belle_jax.synthesis.harvest import Harvest
from belle_jax.synthesis.run import journal_settings
from belle_jax.synthesis.settings import Settings
from belle_jax.synthesis.sources import read_rows, read_seeds
from belle_jax.texts.similarity import Similarity

TASKS = (
    '说出春天开的五种花', '解释彩虹为什么是弯的', '说出秋天结的三样果子', '给新同事写一段欢迎词',
    '列出去敦煌要带的东西', '比较蒸和煮的差别',
)  # fmt: skip


def settings(**changes: Any) -> Settings:
    given: dict[str, Any] = {'seeds': read_seeds()} | changes
    return Settings(**given)


def reply(*tasks, index=0):
    """In BELLE's format, one task on each line."""
    pieces = [
        f'{n}. 指令: {task}\n{n}. 输入:\n<无输入>\n{n}. 输出:\n好的，我来试一试。\n'
        for n, task in enumerate(tasks, 4)
    ]
    return Reply(index, '###\n'.join(pieces), 'stop', 100, 10, 0.5)


def harvest(count=None, *, pool=None, refused=None, **options: Any):
    kind = kinds.make('self_instruct', settings(**options))
    write = (lambda row: None) if refused is None else refused.append
    return Harvest(kind, pool, count, kind.rules, write, give_up_after=3)


def test_rows_are_compared_with_seeds_and_all_before_them_their_own_reply_included():
    refused = []
    seed = read_seeds()[0]['instruction']
    pool = Similarity('rouge', 'characters', 0.8, True, [seed])
    found = harvest(pool=pool, refused=refused)
    again = TASKS[0].replace('五种', '四种')  # 8 of 9 characters
    assert not found.use(reply(TASKS[0], again, seed, TASKS[1]))
    found.use(reply(TASKS[1], TASKS[2], index=1))
    assert [row['instruction'] for row in found.kept] == list(TASKS[:3])
    assert found.rejected == {'too similar': 3}
    assert [row['index'] for row in refused] == [0, 0, 1]
    assert f"to '{TASKS[0]}' (0.8889)" in refused[0]['text'] and seed in refused[1]['text']
    nearest = found.kept[2]['most_similar_instructions']
    assert set(nearest) <= {seed, *TASKS[:2]} and 0.3 < nearest[TASKS[0]] < 0.8
    # The mean over all three, those that share nothing included.
    assert found.kept[2]['avg_similarity_score'] == pytest.approx(
        sum(nearest.values()) / 3, abs=1e-4
    )
    assert found.points[-1] == (2, 6, 3, 200, 20, 1.0)


def test_only_instructions_tell_their_neighbours():
    pool = Similarity('rouge', 'characters', None, True, ['甲乙丙丁'])
    rows = [{'instruction': '说说春天。', 'input': '', 'output': ''}]
    for name, text in (
        ('evol', '指令：说说春天里开的花和它们的名字。\n输入：<无输入>\n输出：桃花和杏花。'),
        ('label', 'generation'),
    ):
        kind = kinds.make(name, settings(rows=rows))
        found = Harvest(kind, pool, None, ())
        found.use(Reply(0, text, 'stop', 1, 1, 0.0))
        assert ('most_similar_instructions' in found.kept[0]) == (name == 'evol')


def test_no_more_is_asked_than_rows_may_be_missing():
    found = harvest(30)
    # At first each reply may give the ten tasks that it is asked for.
    assert found.needs(2) and not found.needs(3)
    found.use(reply(*TASKS))
    # Six rows a reply: 24 are missing.
    assert found.needs(3) and not found.needs(4)
    found.use(reply('', index=1))
    assert found.needs(7) and not found.needs(8)
    assert harvest(None).needs(10_000)
    found = harvest(4)
    assert found.use(reply(*TASKS)) and len(found.kept) == 4 and found.enough
    assert not found.rejected  # what is beyond enough was not refused


def test_replies_in_a_row_without_a_row_end_it():
    found = harvest(50)
    nothing = Reply(0, '我无法完成这个请求。', 'stop', 1, 1, 0.0)
    assert [found.use(nothing) for _ in range(2)] == [False, False]
    assert not found.use(reply(*TASKS))
    assert [found.use(nothing) for _ in range(3)] == [False, False, True]
    assert found.ended and not found.enough and found.rejected == {'refusal': 5}


def test_the_line_tells_how_a_run_goes():
    found = harvest(2000)
    counters = Counters(in_flight=7, prompt_tokens=1000, completion_tokens=234, cost_usd=1.5)
    live = Live(found.standing, counters)
    assert live.text() == 'kept 0/2,000 · 7 in flight · 1,234 tokens · $1.50'
    found.use(reply(*TASKS))
    found.use(Reply(1, '我无法完成这个请求。', 'stop', 1, 1, 0.0))
    counters.retries.update({'429': 3, 'time-out': 1})
    counters.paused, counters.newest = True, '429: 余额不足'
    assert live.text() == (
        'kept 6/2,000 · 7 in flight · 1,234 tokens · $1.50 · waiting for the server · '
        'rejected 1 (refusal 1) · 4 retries (newest: 429: 余额不足)'
    )


def test_a_journal_belongs_to_what_decides_its_requests(tmp_path):
    prompt = tmp_path / 'prompt.txt'
    prompt.write_text('请写任务。\n', 'utf-8')

    def of(name='self_instruct', **changes):
        return journal_settings(kinds.make(name, settings(**changes)))

    ours = of(prompt_file=str(prompt))
    assert ours['seeds'].startswith('175, ') and ours['model'] == 'gpt-4.1-mini'
    assert ours == of(prompt_file=str(prompt), longest_answer=5, apart=True)
    assert ours == of(prompt_file=str(prompt), model_name='gpt-4.1-mini')
    for changes in (
        {'seed': 1}, {'temperature': 0.5}, {'seeds': read_seeds()[1:]}, {'request': {'top_k': 3}},
        {'model_name': 'other'}, {'prompt_file': ''}, {'name': 'math'},
    ):  # fmt: skip
        assert of(**{'prompt_file': str(prompt), **changes}) != ours, changes
    prompt.write_text('请写别的任务。\n', 'utf-8')  # the same name, another text
    changed = of(prompt_file=str(prompt))
    assert {name for name in ours if ours[name] != changed[name]} == {'prompt', 'first requests'}


@pytest.mark.parametrize(
    'row',
    [
        {'instruction': '甲', 'output': '乙'},
        {'instruction': '', 'input': '甲', 'output': ''},
        {'input': '甲', 'target': '乙'},
        {'question': '甲', 'std_answer': ''},
        {'prompt': '甲', 'completion': '乙'},
        {'conversations': [{'from': 'human', 'value': '甲'}, {'from': 'gpt', 'value': '乙'}]},
        {'messages': [{'role': 'user', 'content': '甲'}]},
    ],
)
def test_rows_of_all_layouts_can_be_labelled(tmp_path, row):
    path = tmp_path / 'rows.json'
    path.write_text(json.dumps([row]), 'utf-8')
    assert read_rows([path]) == [row]
    kind = kinds.make('label', settings(rows=[row]))
    assert '甲' in kind.prompt(0)


@pytest.mark.parametrize(
    'row',
    [
        '{"instruction": 3, "output": "a"}', '{"conversations": null}', '{"messages": ["a"]}',
        '{"instruction": " ", "output": "a"}', '{"instruction": "a", "output": 3}',
        '{"conversations": [{"from": "gpt", "value": "a"}]}', '["a"]', '{"a": ',
    ],
)  # fmt: skip
def test_rows_that_ask_nothing_are_named(tmp_path, row):
    path = tmp_path / 'rows.jsonl'
    path.write_text(f'{{"instruction": "a", "output": "b"}}\n{row}\n')
    with pytest.raises(ValueError, match=r'rows\.jsonl:2: '):
        read_rows([path])


def test_a_threshold_that_tells_nothing_apart_is_refused():
    for name, threshold in (('rouge', 0.0), ('rouge', 1.1), ('bm25', -1.0)):
        with pytest.raises(ValueError, match='cannot tell texts apart'):
            Similarity(name, 'characters', threshold, False, [])
    assert Similarity('bm25', 'characters', None, False, []).threshold == 18
    assert Similarity('rouge', list, None, False, []).measure == 'ROUGE-L F1, model tokens'
