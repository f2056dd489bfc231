"""Contamination: training files with overlaps that are known."""

import gzip
import json

import pytest

from belle_jax.judging.contamination import Overlap, contamination

CHINESE = '请用三句话介绍一下杭州西湖的历史，并且推荐两个适合秋天去的景点。'
ENGLISH = (
    'Write a short letter to the city council asking them to plant more trees along the river bank '
    'before the summer heat arrives.'
)
SHORT = '1+1等于几？'
QUESTIONS = {
    7: CHINESE,
    3: ENGLISH,
    12: SHORT,
    20: '解释光合作用的过程，以及它对地球上生命的意义。',
}


def write(path, rows):
    text = ''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == '.gz' else text.encode())
    return str(path)


def alpaca(instruction, given='', output='好的。'):
    return {'instruction': instruction, 'input': given, 'output': output}


def found(tmp_path, *rows, **settings):
    return contamination(QUESTIONS, [write(tmp_path / 'train.jsonl', rows)], **settings).findings


def test_the_same_text_is_exact_whatever_its_width_case_and_marks(tmp_path):
    rows = [
        alpaca('别的事'),
        alpaca('请用三句话介绍一下杭州西湖的历史, 并且推荐两个\n适合秋天去的景点'),
        alpaca('WRITE' + ENGLISH[5:].upper().replace('.', '!')),
        alpaca('１＋１等于几'),
        alpaca('1-1等于几？'),
        alpaca(SHORT),
    ]
    exact = [f for f in found(tmp_path, *rows) if f.kind == 'exact']
    file = str(tmp_path / 'train.jsonl')
    # In the order of the questions; 1-1 is another question than 1+1.
    assert exact == [
        Overlap(7, 'exact', file, 2, rows[1]['instruction'], 1.0, 1),
        Overlap(3, 'exact', file, 3, rows[2]['instruction'], 1.0, 1),
        Overlap(12, 'exact', file, 4, '１＋１等于几', 1.0, 2),
    ]


def test_an_instruction_and_its_input_are_one_question(tmp_path):
    row = alpaca('请用三句话介绍一下杭州西湖的历史', '并且推荐两个适合秋天去的景点')
    assert [f.kind for f in found(tmp_path, row)] == ['exact', 'ngram']


def test_a_changed_text_is_near_with_its_rouge(tmp_path):
    changed = '请用两句话介绍一下杭州西湖的历史，并且推荐一个适合春天去的景点。'
    near, ngram = found(tmp_path, alpaca(changed))
    # 30 characters each, without marks; three were changed.
    assert (near.kind, near.question, near.text) == ('near', 7, changed)
    assert near.score == pytest.approx(27 / 30)
    assert ngram.kind == 'ngram'
    assert not [f for f in found(tmp_path, alpaca(changed), threshold=0.91) if f.kind == 'near']


def test_thirteen_shared_words_are_found_in_any_turn_and_twelve_are_not(tmp_path):
    thirteen = ' '.join(ENGLISH.split()[3:16])
    row = {
        'messages': [
            {'role': 'user', 'content': 'What did she write?'},
            {'role': 'assistant', 'content': f'She wrote: {thirteen} — and more.'},
        ]
    }
    (finding,) = found(tmp_path, row)
    assert finding[:2] == (3, 'ngram')
    assert finding.text == thirteen.lower()
    assert finding.score == pytest.approx(13 / len(ENGLISH.split()))
    row['messages'][1]['content'] = ' '.join(ENGLISH.split()[3:15])
    assert not found(tmp_path, row)


def test_thirteen_chinese_characters_are_a_run_but_not_over_two_turns(tmp_path):
    text = '我们聊聊杭州西湖的历史，并且推荐两个地方'  # 13 of them from 杭 to 个
    (finding,) = found(tmp_path, alpaca('讲个故事', output=text))
    assert (finding.text, finding.score) == (
        '杭州西湖的历史，并且推荐两个'.replace('，', ','),
        13 / 30,
    )
    split = alpaca('说说杭州西湖的历史', output='并且推荐两个地方')
    assert not found(tmp_path, split)


def test_the_row_that_overlaps_most_is_named_and_all_are_counted(tmp_path):
    rows = [alpaca('讲', output=CHINESE[:k]) for k in (16, 20, 33, 25)]
    (finding,) = found(tmp_path, *rows)
    assert (finding.row, finding.rows, finding.score) == (3, 4, 1.0)


def test_files_of_any_layout_are_read_and_rows_counted_as_they_stand(tmp_path, monkeypatch):
    belle = [{'text': '……' + CHINESE + '……'}, {'text': 'nothing'}]
    chats = [
        {'conversations': [{'from': 'human', 'value': ''}, {'from': 'gpt', 'value': 'x'}]},
        {'conversations': [{'from': 'human', 'value': SHORT}, {'from': 'gpt', 'value': '2'}]},
    ]
    files = [write(tmp_path / 'a.jsonl.gz', belle), write(tmp_path / 'b.jsonl', chats)]
    result = contamination(QUESTIONS, files)
    assert [(f.question, f.kind, f.file, f.row) for f in result.findings] == [
        (7, 'exact', files[0], 1),
        (7, 'ngram', files[0], 1),
        (12, 'exact', files[1], 2),
    ]
    assert (result.rows, dict(result.skipped)) == (4, {'empty question': 1})
    monkeypatch.setattr('belle_jax.judging.contamination.BLOCK', 1)
    assert contamination(QUESTIONS, files) == result


def test_the_summary_counts_each_question_once_by_its_strongest_kind(tmp_path):
    rows = [alpaca(CHINESE), alpaca('讲', output=ENGLISH)]
    result = contamination(QUESTIONS, [write(tmp_path / 'train.jsonl', rows)])
    assert {number: f.kind for number, f in result.overlap().items()} == {7: 'exact', 3: 'ngram'}
    assert result.counts() == {'exact': 1, 'near': 0, 'ngram': 1}
    assert str(result) == (
        '2 of 4 questions (50.0%) overlap 2 training rows: 1 exact, 0 near, 1 ngram.'
    )


def test_what_cannot_be_compared_is_a_sentence(tmp_path):
    file = write(tmp_path / 'train.jsonl', [alpaca('x')])
    with pytest.raises(ValueError, match='nothing to compare'):
        contamination({}, [file])
    with pytest.raises(ValueError, match='threshold=1.5 must be above 0'):
        contamination(QUESTIONS, [file], threshold=1.5)
    with pytest.raises(ValueError, match='nowhere.jsonl is not there'):
        contamination(QUESTIONS, [file, str(tmp_path / 'nowhere.jsonl')])
