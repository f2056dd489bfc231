"""Our own questions and rubrics, and the checker: it passes them, and finds each kind of damage."""

import json
import re
from collections import Counter

import pytest

from belle_jax.judging import question_set, questions
from belle_jax.judging.questions import KINDS, OWN_QUESTIONS, OWN_SAFETY, SAFETY, SETS, TASKS
from belle_jax.quickstart import pairs
from belle_jax.synthesis.sources import OWN_ENGLISH_SEEDS, OWN_SEEDS, read_seeds
from belle_jax.texts.similarity import Index

BELLE = SETS.parents[3] / 'shared' / 'data' / 'belle'


def test_our_sets_pass_with_nothing_to_look_at():
    for path in (OWN_QUESTIONS, OWN_SAFETY):
        assert question_set.check(path).findings == []


def test_our_questions_are_enough_of_each_class_and_each_has_a_reference():
    counts = Counter(question.kind for question in questions.read(OWN_QUESTIONS))
    assert set(counts) == set(TASKS) and min(counts.values()) >= 10 and counts.total() >= 132
    safety = Counter(question.kind for question in questions.read(OWN_SAFETY))
    assert set(safety) == set(SAFETY) and safety['refusal'] >= 40 and safety['harmless'] >= 20
    for question in questions.read(OWN_QUESTIONS) + questions.read(OWN_SAFETY):
        assert question.reference.strip() == question.reference != ''


def test_most_of_our_questions_are_chinese_and_each_class_has_some_in_english():
    asked = questions.read(OWN_QUESTIONS)
    english = Counter(q.kind for q in asked if not re.search('[\u4e00-\u9fff]', q.text))
    assert 20 <= english.total() < len(asked) / 4 and english.keys() >= set(TASKS) - {'translation'}


def test_none_of_our_questions_is_near_what_models_here_are_trained_on():
    """The quickstart's pairs, held-out ones too, our seed tasks, and BELLE's files if present."""
    index = Index()
    train, held_out = pairs.make()
    for pair in train + held_out:
        index.add(pair.instruction)
    for seed in read_seeds(OWN_SEEDS) + read_seeds(OWN_ENGLISH_SEEDS):
        index.add(seed['instruction'] + seed['instances'][0]['input'])
    if BELLE.exists():
        for question in questions.read(BELLE / 'eval_set.json'):
            index.add(question.text)
        for line in (BELLE / 'dev1K.json').read_text('utf-8').splitlines():
            row = json.loads(line)
            index.add(row['instruction'] + row['input'])
        for seed in read_seeds(BELLE / 'zh_seed_tasks.json'):
            index.add(seed['instruction'] + seed['instances'][0]['input'])
    for question in questions.read(OWN_QUESTIONS) + questions.read(OWN_SAFETY):
        assert index.nearest(question.text, 0.5).index < 0, question.text


@pytest.mark.parametrize('language', ['zh', 'en'])
def test_each_class_has_a_rubric_that_takes_its_texts_and_asks_for_json_last(language):
    lines = (SETS / f'rubrics_{language}.jsonl').read_text('utf-8').splitlines()
    prompts = {row['class']: row['prompt'] for row in map(json.loads, lines)}
    assert len(prompts) == len(lines) and set(prompts) == {*KINDS, 'pair'}
    for kind, prompt in prompts.items():
        pair = kind == 'pair'
        texts = {'question', 'reference'} | ({'answer_a', 'answer_b'} if pair else {'answer'})
        assert Counter(re.findall(r'\{(\w+)\}', prompt)) == dict.fromkeys(texts, 1)
        assert prompt.splitlines()[-1] == ('{"winner": "X"}' if pair else '{"score": X}')
        assert {'zh': '可能为空', 'en': 'may be empty'}[language] in prompt
        if not pair:
            anchors = re.findall(r'^([\d.]+)\s', prompt, re.MULTILINE)
            assert anchors == ['1', '0.75', '0.5', '0.25', '0']


def damaged(tmp_path, **changes):
    """The findings about a copy of our questions in which some lines, counted from 0, differ."""
    rows = [json.loads(line) for line in OWN_QUESTIONS.read_text('utf-8').splitlines()]
    for line, change in changes.items():
        number = int(line.removeprefix('line'))
        rows[number] = change(rows[number], rows) if callable(change) else change
    path = tmp_path / 'set.jsonl'
    text = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text('\n'.join(text) + '\n', 'utf-8')
    return question_set.check(path)


@pytest.mark.parametrize(
    ('change', 'severity', 'matter', 'text'),
    [
        ('{"question": ', 'error', 'row', 'broken JSON at column'),
        ({'question': '问', 'std_answer': '答'}, 'error', 'row', 'the field "class" is missing.'),
        (lambda row, _: row | {'question': ' '}, 'error', 'row', 'the field "question" is empty.'),
        (
            lambda row, _: row | {'std_answer': 7},
            'error',
            'row',
            '"std_answer" must be text',
        ),
        (lambda row, _: row | {'std_answer': '\n'}, 'error', 'reference', 'the reference is empty'),
        (lambda row, _: row | {'class': 'open q'}, 'error', 'class', 'did you mean "open qa"?'),
        (lambda row, _: row | {'class': '数学'}, 'error', 'class', 'known are open qa, brainst'),
        (lambda row, _: row | {'anwser': 'x'}, 'warning', 'field', '"anwser" is not read: known'),
        (
            lambda row, rows: row | {'question': ' ' + rows[1]['question'] + '\n'},
            *('error', 'duplicate', 'is the same as that of'),
        ),
        (
            lambda row, rows: row | {'question': '请问，' + rows[1]['question']},
            *('warning', 'duplicate', 'nearly the same (ROUGE-L 0.9'),
        ),
    ],
)
def test_damage_is_found_with_its_line(tmp_path, change, severity, matter, text):
    found = damaged(tmp_path, line4=change)
    [finding] = found.findings
    assert finding[:3] == (f'{tmp_path}/set.jsonl:5', severity, matter)
    assert text in finding.text and found.errors == (severity == 'error')
    assert f'set.jsonl:5: {severity}: ' in str(found)


def test_a_class_may_be_anybodys_where_there_is_a_rubric_and_then_needs_eight_too(tmp_path):
    path = tmp_path / 'set.jsonl'
    row = {'question': '用方言打个招呼', 'std_answer': '', 'class': 'Dialect'}
    path.write_text(json.dumps(row), 'utf-8')
    found = question_set.check(path, {'dialect'}).findings
    assert [(f.where, f.severity, f.matter) for f in found] == [
        (f'{path}:1', 'warning', 'reference'),
        (str(path), 'warning', 'balance'),
    ]
    assert found[1].text == 'dialect has 1 of the 8 questions that a mean needs: add some.'


def test_an_empty_reference_is_a_warning_where_there_is_no_right_answer(tmp_path):
    opened = {
        f'line{question.number - 1}': lambda row, _: row | {'std_answer': ''}
        for question in questions.read(OWN_QUESTIONS)
        if question.kind in ('generation', 'rewrite', 'brainstorming')
    }
    found = damaged(tmp_path, **opened)
    assert found.errors == 0 and len(found.findings) == len(opened) == 39
    assert '19 more about the reference' in str(found)


def test_a_class_that_is_short_of_questions_is_told_and_so_is_one_that_is_missing(tmp_path):
    rows = OWN_SAFETY.read_text('utf-8').splitlines()
    (tmp_path / 'few.jsonl').write_text('\n'.join(rows[:7]), 'utf-8')
    found = question_set.check(tmp_path / 'few.jsonl')
    assert [finding.text.split(' questions')[0] for finding in found.findings] == [
        'refusal has 7 of the 8',
        'harmless has 0 of the 8',
    ]
    assert {finding.where for finding in found.findings} == {f'{tmp_path}/few.jsonl'}
    assert not any(kind in str(found) for kind in set(KINDS) - set(SAFETY))


def test_what_the_search_of_training_data_finds_is_an_error_of_the_questions_line():
    def overlap(asked):
        assert len(asked) >= 60
        return [(asked[2].number, 'the question stands in train.jsonl:7: take it out there.')]

    found = question_set.check(OWN_SAFETY, overlap=overlap)
    assert found.errors == 1
    assert str(found.findings[0]) == (
        f'{OWN_SAFETY}:3: error: the question stands in train.jsonl:7: take it out there.'
    )


def test_the_table_counts_questions_and_references_by_class(tmp_path):
    path = tmp_path / 'set.jsonl'
    rows = [('12345', '答', 'math'), ('123', '', 'math'), ('1' * 1500, '', 'Generation')]
    keys = ('question', 'std_answer', 'class')
    path.write_text('\n'.join(json.dumps(dict(zip(keys, row))) for row in rows), 'utf-8')
    assert question_set.check(path).table().splitlines() == [
        'class       questions   references   characters',
        'generation          1            0        1,500',
        'math                2            1            4',
        'all                 3            1            5',
    ]


@pytest.mark.skipif(not BELLE.exists(), reason="needs BELLE's data beside the checkout")
def test_belles_set_has_no_error_and_twelve_near_duplicates():
    found = question_set.check(BELLE / 'eval_set.json')
    assert found.errors == 0
    matters = Counter(finding.matter for finding in found.findings)
    assert matters == {'reference': 369, 'duplicate': 12, 'balance': 1}
    assert found.findings[-1].text.startswith('translation has 0 of the 8')


def test_a_file_that_holds_no_row_is_refused(tmp_path):
    (tmp_path / 'set.json').write_text('[]', 'utf-8')
    with pytest.raises(ValueError, match='holds no question'):
        question_set.check(tmp_path / 'set.json')
