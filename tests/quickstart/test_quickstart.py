"""The quickstart's data: the same everywhere, without leaks, and not to be had by looking it up."""

import hashlib
import json
import re

import pytest

from belle_jax import config
from belle_jax.quickstart import pairs, report, tokenizer
from belle_jax.quickstart.kinds import KINDS, numeral
from belle_jax.quickstart.pairs import Pair


@pytest.fixture(scope='module')
def data():
    return pairs.make()


def test_there_are_thousands_of_pairs_in_many_kinds(data):
    train, held_out = data
    assert len(train) >= 10_000
    assert len({pair.kind for pair in train}) == len(KINDS) == 14
    for kind in KINDS:
        assert sum(pair.kind == kind.name for pair in held_out) == pairs.HELD_OUT
        assert sum(pair.kind == kind.name for pair in train) > 0.9 * kind.pairs - pairs.HELD_OUT


def test_the_same_bytes_are_written_on_every_machine(data, tmp_path):
    for name, chosen in zip(('train', 'held_out'), data, strict=True):
        pairs.write(chosen, tmp_path / name)
    text = (tmp_path / 'train').read_bytes() + (tmp_path / 'held_out').read_bytes()
    assert hashlib.sha256(text).hexdigest()[:16] == 'f9e985554eda8f85'
    assert pairs.make() == data
    assert pairs.make(seed=1) != data
    row = json.loads((tmp_path / 'train').read_text('utf-8').splitlines()[0])
    assert row['instruction'] == data[0][0].instruction
    assert row['output'] == data[0][0].output


def test_no_held_out_question_is_trained_on_in_any_phrasing(data):
    """The same question in other words has the same content: what is not in any phrasing."""
    train, held_out = data

    def content(pair):
        kind = next(kind for kind in KINDS if kind.name == pair.kind)
        for phrasing in kind.phrasings:
            pattern = '(.+?)'.join(re.escape(part) for part in phrasing.split('{}'))
            if match := re.fullmatch(pattern, pair.instruction):
                return pair.kind, *match.groups()
        raise AssertionError(pair)

    seen = {content(pair) for pair in train}
    assert len(seen) == len(train)
    assert not seen & {content(pair) for pair in held_out}
    assert not {p.instruction for p in train} & {p.instruction for p in held_out}


def test_in_most_kinds_no_held_out_answer_occurs_in_training(data):
    train, held_out = data
    answers = {pair.output for pair in train}
    seen = {pair.kind for pair in held_out if pair.output in answers}
    assert seen == {kind.name for kind in KINDS if not kind.new_answers}
    assert len(seen) <= len(KINDS) / 2


def test_the_nearest_training_row_answers_few_questions(data):
    train, held_out = data
    answers = report.nearest(train, [pair.instruction for pair in held_out])
    assert sum(report.exact(held_out, answers)) < 0.4 * len(held_out)


def test_the_nearest_row_is_the_most_similar_one():
    train = [Pair('', 'abcd', '1'), Pair('', 'xyz', '2'), Pair('', 'abc', '3')]
    assert report.nearest(train, ['abcd', 'abce', 'xy']) == ['1', '3', '2']


@pytest.mark.parametrize(
    ('number', 'text'),
    [
        (7, '七'),
        (10, '十'),
        (16, '十六'),
        (60, '六十'),
        (110, '一百一十'),
        (205, '二百零五'),
        (3002, '三千零二'),
        (3020, '三千零二十'),
        (9999, '九千九百九十九'),
        (4000, '四千'),
    ],
)
def test_numerals_are_read_as_in_chinese(number, text):
    assert numeral(number) == text


def test_right_answers_are_right(data):
    """Recomputed from the instruction's text by other means than the generator's."""
    train, _ = data
    checked = 0
    for pair in train:
        numbers = [int(n) for n in re.findall(r'\d+', pair.instruction)]
        quoted = re.findall('“(.+?)”', pair.instruction)
        if pair.kind == '换算':
            expected = f'{numbers[0] + numbers[1] / 100:.2f}元'
        elif pair.kind == '奇偶':
            expected = '奇偶'[str(numbers[0])[-1] in '02468'] + '数'
        elif pair.kind == '倒写':
            expected = ''.join(reversed(quoted[0]))
        elif pair.kind == '时间':
            late = 12 if '下午' in pair.instruction else 0
            expected = f'{numbers[0] + late:02d}:{numbers[1]:02d}'
        else:
            continue
        assert pair.output == expected
        checked += 1
    assert checked > 3000


def test_the_tokenizer_gives_every_text_back_and_keeps_what_moves_apart(data, tmp_path):
    train, held_out = data
    texts = (f'Human: {p.instruction}\n\nAssistant:{p.output}' for p in train)
    size = tokenizer.train(texts, tmp_path)
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert len(loaded) == size <= 1152
    for pair in held_out:
        assert loaded.decode(loaded(pair.output).input_ids) == pair.output
    strange = 'é 😀 龘\n'
    assert loaded.decode(loaded(strange).input_ids) == strange
    assert len(loaded('3082').input_ids) == 4
    assert len(loaded('山水云天').input_ids) == 4
    assert len(loaded('把日期改写成数字格式').input_ids) < 5


def test_the_recipe_resolves_to_a_model_of_three_to_ten_million_parameters():
    from configs import quickstart

    run = config.resolve(quickstart.get_config())
    assert run.model.architecture is not None
    from dataclasses import replace

    from belle_jax import models

    architecture = replace(run.model.architecture, vocab_size=1100)
    assert 3e6 <= models.count_parameters(models.Blueprint(architecture)) <= 10e6
    with pytest.raises(ValueError, match='no variants'):
        quickstart.get_config('7b')


def test_the_table_counts_what_is_exactly_right():
    train = [Pair('甲', 'a', '1'), Pair('乙', 'b', '2')]
    held_out = [Pair('甲', 'c', '1'), Pair('甲', 'd', '3'), Pair('乙', 'e', '4')]
    lines = report.table(train, held_out, ['1', ' 3', '5'], ['1', '1', '1']).splitlines()
    assert [line.split() for line in lines[-3:]] == [
        ['甲', '100.0', '50.0', '50.0'],
        ['乙', '0.0', '0.0', '0.0'],
        ['all', '66.7', '33.3', '33.3'],
    ]


def test_the_loss_is_shown_from_the_first_step_to_the_last(tmp_path):
    path = tmp_path / 'metrics.jsonl'
    path.write_text(
        ''.join(json.dumps({'step': s, 'loss': 4.0 / s}) + '\n' for s in range(1, 101)), 'utf-8'
    )
    lines = report.losses(path).strip().splitlines()
    assert lines[1].split()[:3] == ['step', '1', '4.0000']
    assert lines[-1].split()[:3] == ['step', '100', '0.0400']
    assert len(lines) == 1 + report.POINTS
