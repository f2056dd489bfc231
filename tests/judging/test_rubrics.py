"""Prompts of judges: BELLE's as BELLE's page sends them, ours as templates."""

import json

import pytest

from belle_jax.judging import rubrics
from belle_jax.judging.questions import KINDS, Question


def written(path, *rows):
    path.write_text('\n'.join(json.dumps(row, ensure_ascii=False) for row in rows), 'utf-8')
    return path


def test_belles_prompts_are_sent_in_belles_form(tmp_path):
    read = rubrics.read(
        written(
            tmp_path / 'prompt.json',
            {'class': 'open QA', 'prompt': '请打分。'},
            {'class': 'rewrite', 'prompt': '请打分。'},
        )
    )
    # The two forms, as eval/README.md of BELLE shows them.
    asked = Question(1, '几点？', '三点。', 'open qa')
    assert read.single(asked, '三\n点') == (
        "请打分。 几点？ 标准回答:三点。  模型回答：' 三\n点'。"
        '请针对模型回答给出得分，顺便给出理由：'
    )
    asked = Question(2, '改写。', '参考', 'rewrite')
    assert read.single(asked, '好') == (
        "请打分。 改写。  模型回答： '好'。请针对模型回答给出得分，顺便给出理由："
    )


def test_holes_are_filled_once_whatever_fills_them(tmp_path):
    template = '题：{question}\n参考：{reference}\n答：{answer}\n最后一行：{"score": 0.5}'
    read = rubrics.read(written(tmp_path / 'p.jsonl', {'class': 'math', 'prompt': template}))
    asked = Question(1, '求 {answer} 的值', '{x}', 'math')
    assert read.single(asked, '{reference}{0}') == (
        '题：求 {answer} 的值\n参考：{x}\n答：{reference}{0}\n最后一行：{"score": 0.5}'
    )
    assert '得分: 0.5' in read.again('math')


def test_a_class_without_a_prompt_is_told_before_anything_is_asked(tmp_path):
    read = rubrics.read(written(tmp_path / 'p.jsonl', {'class': 'math', 'prompt': 'x'}))
    read.require(['math'])
    with pytest.raises(ValueError, match="p.jsonl has no prompt for the classes 'code', 'law'"):
        read.require(['law', 'math', 'code'])


@pytest.mark.parametrize(
    ('row', 'said'),
    [
        ({'class': 'math'}, 'the field "prompt" is missing'),
        ({'class': 'math', 'prompt': ' '}, 'the prompt is empty'),
        ({'class': 'Closed\u00a0QA', 'prompt': 'x'}, "'closed qa' has a prompt already"),
        (['math'], 'a prompt is an object'),
    ],
)
def test_a_broken_row_is_named(tmp_path, row, said):
    path = written(tmp_path / 'p.jsonl', {'class': 'closed qa', 'prompt': 'x'}, row)
    with pytest.raises(ValueError, match=said) as error:
        rubrics.read(path)
    assert 'p.jsonl:2' in str(error.value)


@pytest.mark.parametrize('language', rubrics.OWN)
def test_ours_have_a_prompt_for_each_class_and_for_pairs(language):
    read = rubrics.read(rubrics.OWN[language])
    read.require([*KINDS, rubrics.PAIR])
    for kind in KINDS:
        said = read.single(Question(1, 'QQQ', 'RRR', kind), 'AAA')
        assert 'QQQ' in said and 'RRR' in said and 'AAA' in said and '"score"' in said
    pair = read.pair(Question(1, 'QQQ', 'RRR', 'math'), 'A1A', 'B2B')
    assert pair.index('A1A') < pair.index('B2B') and '"winner"' in pair
    assert ('读' in read.again('math')) == (language == 'zh')
