"""`belle-jax evaluate` from questions to a report, with a judge that misbehaves."""

import json
import os
import sys
from pathlib import Path

import pytest

import judge_replies
import programs
import tiny
from belle_jax.judging import answering, questions, scoring
from generate_runs import BAD, KEY, serving

ROOT = Path(__file__).resolve().parents[2]
TEMPLATE = '{question}\n{reference}\n{answer}\n得分: {"score": 1}'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp('evaluation')
    tiny.write_model(made / 'model')
    rows = [
        {
            'question': f'{n}加{n}等于几？',
            'std_answer': f'{2 * n}',
            'class': ('Math', 'Open\u00a0QA')[n % 2],
        }
        for n in range(6)
    ]
    rows.append({'question': '天' * 400, 'std_answer': '', 'class': 'math'})
    written(made / 'questions.jsonl', rows)
    written(made / 'prompts.jsonl', [{'class': c, 'prompt': TEMPLATE} for c in ('math', 'open qa')])
    written(made / 'other.jsonl', [{'input': '别的', 'output': '不'}])
    written(made / 'law.jsonl', [{'question': '几年？', 'std_answer': '', 'class': 'law'}])
    written(made / 'classless.jsonl', [*rows[:2], {'question': '几年？', 'std_answer': '三'}])
    (made / 'empty.jsonl').touch()
    return made


def written(path, rows):
    path.write_text(''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in rows), 'utf-8')


def command(words, url, key=KEY):
    environment = os.environ | {'PYTHONPATH': str(ROOT), 'OPENAI_BASE_URL': url}
    environment |= {'OPENAI_API_KEY': key}
    return [sys.executable, '-m', 'belle_jax.evaluate', *words.split()], environment


def evaluate(folder, words, url='http://127.0.0.1:9/v1', key=KEY):
    program, environment = command(words, url, key)
    return programs.run(program, cwd=folder, env=environment, timeout=300)


def test_a_model_of_ours_is_asked_judged_and_reported_and_nothing_is_done_twice(folder):
    """By two processes, of which one asks the judge; then by one, which finds it done."""
    words = (
        'run --model=model --judge=test --judgings=2 --output=evals/ours --max_new_tokens=4 '
        '--questions=questions.jsonl --prompts=prompts.jsonl'
    )
    with serving(content=judge_replies.judge, **BAD) as server:
        program, environment = command(words, server.url)
        both = [
            programs.Heard([*program, *own], cwd=folder, env=environment) for own in programs.job(2)
        ]
        told = [''.join(process.communicate(timeout=300)) for process in both]
        assert [process.returncode for process in both] == [0, 0], told
        assert KEY not in told[0] and 'report.html' in told[0] and not told[1]
        asked = questions.read(folder / 'questions.jsonl')
        answers = answering.read(folder / 'evals/ours/answers.jsonl', asked)
        assert [a.finish_reason == answering.TOO_LONG for a in answers] == [False] * 6 + [True]
        found = scoring.read(folder / 'evals/ours/verdicts.jsonl')
        assert [(v.number, v.judging) for v in found] == [
            (n, j) for j in (0, 1) for n in range(1, 8)
        ]
        before = (
            len(server.log),
            {p: p.read_bytes() for p in (folder / 'evals/ours').glob('*.json*')},
        )
        again = evaluate(folder, words, server.url)
        assert again.returncode == 0 and len(server.log) == before[0]
        assert {p: p.read_bytes() for p in (folder / 'evals/ours').glob('*.json*')} == before[1]
    alone = words.replace('run', 'answer').replace('evals/ours', 'evals/alone')
    alone = alone.replace('--judge=test --judgings=2', '').replace('--prompts=prompts.jsonl', '')
    assert evaluate(folder, alone).returncode == 0
    made = [(folder / 'evals' / name / 'answers.jsonl').read_bytes() for name in ('ours', 'alone')]
    assert made[0] == made[1]
    page = (folder / 'evals/ours/report.html').read_text('utf-8')
    assert '2加2等于几' in page


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        (
            'run --model=model --judge=j --output=o --questions=law.jsonl',
            "no prompt for the class 'law'",
        ),
        ('answer --model=model --output=o --questions=classless.jsonl', 'classless.jsonl:3'),
        (
            'answer --answers=empty.jsonl --output=o --questions=questions.jsonl',
            'empty.jsonl is empty',
        ),
        (
            'answer --answers=other.jsonl --output=o --questions=questions.jsonl',
            'no answer to 7 of 7',
        ),
        ('answer --output=o', '--model is missing, or --answers'),
        ('judge --judge=j --output=nothing', 'begin with the stage of answers'),
        ('judge --output=o', '--judge is missing'),
        ('report --output=o --judge=j', '--judge does nothing with report'),
        ('answer --model=nothing --output=o --questions=questions.jsonl', 'nothing'),
    ],
)
def test_what_cannot_be_is_said_in_a_sentence_and_nothing_is_made(folder, words, said):
    done = evaluate(folder, words)
    assert done.returncode == 1 and said in done.stderr, done.stderr
    assert done.stderr.startswith('belle_jax.evaluate: ') and done.stderr.count('\n') == 1
    assert not (folder / 'o' / 'answers.jsonl').exists()


def test_an_unknown_judge_and_other_questions_are_told(folder):
    words = 'answer --answers=a.jsonl --output=evals/b --questions=questions.jsonl'
    rows = [{'id': n, 'output': '四'} for n in range(1, 8)]
    written(folder / 'a.jsonl', rows)
    assert evaluate(folder, words).returncode == 0
    other = evaluate(folder, words.replace('questions.jsonl', 'law.jsonl'))
    assert 'evals/b is an evaluation with other questions' in other.stderr, other.stderr
    assert other.returncode == 1
    with serving(content=judge_replies.judge, model='gpt-4') as server:
        done = evaluate(
            folder, 'judge --judge=gpt-5 --output=evals/b --prompts=prompts.jsonl', server.url
        )
    assert done.returncode == 1 and 'gpt-5' in done.stderr and done.stderr.count('\n') == 1
