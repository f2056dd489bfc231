"""Evaluations as they lie on disk, with answers and verdicts drawn by lot, for tests of reports.

PYTHONPATH=. python tests/support/judged.py QUESTIONS FOLDER     several models, and a report
"""

import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

from belle_jax.judging import questions, report, scoring
from belle_jax.judging.evaluation import Evaluation
from belle_jax.judging.questions import Question
from belle_jax.judging.scoring import Judgement

EVIL = '</script><script>window.hacked = 1</script><img src=x onerror="window.hacked = 2">'
PARTS = ('首先，要明确目标。', '其次，合理安排时间。', '例如：早起半小时。\n', '总之，贵在坚持。')
UNREAD = '这个回答还不错，但是还有提高的空间。'
REASON = '理由：回答覆盖了大部分要点，语句通顺；但例子偏少，个别地方与标准回答不一致。'
HARD = {'math': -0.3, 'code': -0.2, 'extract': -0.1, 'brainstorming': 0.15, 'generation': 0.12}


def evaluation(
    path: Path,
    asked: Sequence[Question],
    skill: float = 0.65,
    judgings: int = 3,
    seed: int = 0,
    model: str = '',
) -> Evaluation:
    """One model's: 5 of 100 verdicts were asked again, 2 are unparsed, 1 of 200 was given up.

    Args:
        path: The directory.
        asked: The questions; the answer to the first is EVIL.
        skill: Mean score, before what its class adds.
        judgings: Of each answer.
        seed: Decides what is drawn.
        model: Its name; '': the directory's.
    """
    chance = random.Random(seed)
    made = Evaluation.begin(path, asked, model=model or f'runs/{path.name}', answered_by='model')
    verdicts = []
    with made.output.open('w', encoding='utf-8') as file:
        for question in asked:
            text = ''.join(chance.choices(PARTS, k=1 + int(chance.lognormvariate(2, 0.9))))
            text = EVIL if question.number == 1 else text
            end = chance.choices(['stop', 'length', 'error'], [965, 30, 5])[0]
            row = {'id': question.number, 'input': question.text, 'output': text}
            file.write(json.dumps(row | {'finish_reason': end}, ensure_ascii=False) + '\n')
            good = chance.gauss(skill + HARD.get(question.kind, 0) + len(text) / 4000, 0.25)
            for judging in range(judgings if end != 'error' else 0):
                verdicts.append(_verdict(question, judging, good, chance))
    verdicts.sort(key=lambda verdict: verdict.judging)
    scoring.write(path / 'verdicts.jsonl', verdicts)
    made.note(judge='gpt-4', judgings=judgings, prompts='eval_prompt.json')
    return made


def exactly(
    path: Path,
    scores: Sequence[Sequence[float | None]],
    texts: Sequence[str] = (),
    kinds: Sequence[str] = ('math', 'open qa', 'rewrite', 'code'),
) -> Evaluation:
    """One with these scores [question][judging], None for what could not be read.

    Args:
        path: The directory.
        scores: Of each answer.
        texts: The answers; by default what tells them apart.
        kinds: The classes, which the questions 1, 2, ... have in turns, from the second one on.
    """
    asked = [Question(n, f'问题{n}', '', kinds[n % len(kinds)]) for n in range(1, len(scores) + 1)]
    made = Evaluation.begin(path, asked, model=path.name, answered_by='file')
    with made.output.open('w', encoding='utf-8') as file:
        for question in asked:
            text = texts[question.number - 1] if texts else f'回答{question.number}'
            row = {'id': question.number, 'input': question.text, 'output': text}
            file.write(json.dumps(row | {'finish_reason': 'stop'}) + '\n')
    found = [
        Judgement(question.number, question.kind, judging, row[judging], f'得分: {row[judging]}')
        for judging in range(len(scores[0]))
        for question, row in zip(asked, scores)
    ]
    scoring.write(path / 'verdicts.jsonl', found)
    made.note(judge='gpt-4', judgings=len(scores[0]), prompts='eval_prompt.json')
    return made


def _verdict(question: Question, judging: int, good: float, chance: random.Random) -> Judgement:
    value = min(1, max(0, round((good + chance.gauss(0, 0.06)) * 20) / 20))
    kind = chance.choices(['first', 'again', 'unread', 'error'], [925, 50, 20, 5])[0]
    if kind == 'error':
        error = 'HTTP 429: rate limit'
        return Judgement(question.number, question.kind, judging, None, '', error=error)
    again, read = kind != 'first', kind != 'unread'
    reply = f'得分: {value}\n{REASON}' if read else UNREAD
    return Judgement(question.number, question.kind, judging, value if read else None, reply, again)


def compared(made: Evaluation, against: str, seed: int = 0) -> None:
    """Adds comparisons with another model's answers: the judge favours the place of A a little."""
    chance = random.Random(seed)
    verdicts = []
    for swapped in (0, 1):
        for question in made.questions:
            ahead = random.Random(question.number).gauss(0.2, 1) + chance.gauss(0, 0.4)
            ahead += -0.25 if swapped else 0.25
            value = 'tie' if abs(ahead) < 0.2 else 'model' if ahead > 0 else 'other'
            value = None if chance.random() < 0.01 else value
            verdict = Judgement(question.number, question.kind, swapped, value, f'结论：{value}')
            verdicts.append(verdict)
    scoring.write(made.path / 'pairs.jsonl', verdicts)
    made.note(against=against, pair_judge='gpt-4')


def seen(made: Evaluation, numbers: Sequence[int]) -> None:
    """Has training data hold these questions."""
    file = {'file': 'data/train.jsonl', 'row': 7, 'score': 1.0, 'rows': 1}
    findings = [
        {'question': number, 'kind': 'exact', 'text': '…'} | file for number in sorted(numbers)
    ]
    found = {'rows': 50000, 'questions': len(made.questions), 'findings': findings}
    (made.path / 'contamination.json').write_text(json.dumps(found), 'utf-8')


def main(file: str, folder: str) -> None:
    """Writes a report of everything that a report can show."""
    asked, chance = questions.read(file), random.Random(0)
    sizes = {'0.2M': 0.58, '0.6M': 0.62, '1M': 0.64, '2M': 0.66}
    made = {
        name: evaluation(Path(folder) / name, asked, skill, 3, seed)
        for seed, (name, skill) in enumerate(sizes.items())
    }
    verdicts = scoring.read(made['0.2M'].path / 'verdicts.jsonl')[:100]
    person = [
        {'id': v.number, 'score': min(1, max(0, round(v.value + chance.gauss(0, 0.2), 1)))}
        for v in verdicts
        if isinstance(v.value, float | int)
    ]
    rows = ''.join(f'{json.dumps(row)}\n' for row in person)
    (Path(folder) / 'person.jsonl').write_text(rows)
    compared(made['0.2M'], str(made['0.6M'].path))
    seen(made['0.2M'], chance.sample(range(1, len(asked) + 1), len(asked) // 50))
    others = {name: str(one.path) for name, one in made.items()}
    del others['0.2M']
    print(report.write(made['0.2M'], others, person=f'{folder}/person.jsonl'))


if __name__ == '__main__':
    main(*sys.argv[1:])
