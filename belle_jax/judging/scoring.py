"""The second stage: a judge reads each answer, several times if wanted, and gives it a score.

A reply from which no score can be read is answered once, saying so. What then cannot be read either
stays unparsed: it is neither 0 nor dropped.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from belle_jax.api import Client, Journal, Reply, Request
from belle_jax.files import WholeText
from belle_jax.judging import answering, verdicts
from belle_jax.judging.answering import Asked, Response, ask
from belle_jax.judging.questions import Question
from belle_jax.judging.rubrics import PAIR, Rubrics

AGAIN = 1 << 32  # added to the index of a request that asks once more
# Replies, from the first on, none of which could be read: a judge that refuses, or cannot.
HOPELESS = 50


class Judgement(NamedTuple):
    """What came of one judging.

    Attributes:
        number: Of the question.
        kind: Its class.
        judging: 0, 1, ...; in pairs, 1 where the answers changed places.
        value: The score (0 to 1), or the better answer ('model', 'other', 'tie'); None if it could
            not be read, or there is no reply.
        reply: The judge's, the second one where it was asked again.
        again: Whether it was.
        error: Why the server gave none.
    """

    number: int
    kind: str
    judging: int
    value: float | str | None
    reply: str
    again: bool = False
    error: str = ''


@dataclass(frozen=True)
class Case:
    """One thing to ask of a judge.

    Attributes:
        index: Of its request: the same whatever else is asked.
        question: That was answered.
        judging: As `Judgement` has it.
        prompt: What the judge reads.
        again: What it reads if its reply cannot be read.
        read: Reads a reply; None: it cannot be read.
    """

    index: int
    question: Question
    judging: int
    prompt: str
    again: str
    read: Callable[[str], Any]


def singles(
    questions: Sequence[Question], answers: Sequence[Response], rubrics: Rubrics, judgings: int
) -> list[Case]:
    """Each answer by itself, `judgings` times."""
    rubrics.require(question.kind for question in questions)
    return [
        Case(
            judging * len(questions) + place,
            question,
            judging,
            rubrics.single(question, answer.text),
            rubrics.again(question.kind),
            lambda text: verdicts.parse(text).score,
        )
        for judging in range(judgings)
        for place, (question, answer) in enumerate(zip(questions, answers, strict=True))
        if not answer.failed
    ]


def pairs(
    questions: Sequence[Question],
    answers: Sequence[Response],
    others: Sequence[Response],
    rubrics: Rubrics,
) -> list[Case]:
    """Each answer beside another model's, in both orders: judges favour places."""
    rubrics.require([PAIR])

    def read(swapped: int) -> Callable[[str], Any]:
        names = {'A': ('model', 'other')[swapped], 'B': ('other', 'model')[swapped], 'tie': 'tie'}
        return lambda text: names.get(verdicts.parse_pair(text) or '')

    return [
        Case(
            swapped * len(questions) + place,
            question,
            swapped,
            rubrics.pair(question, *((b.text, a.text) if swapped else (a.text, b.text))),
            rubrics.again(PAIR),
            read(swapped),
        )
        for swapped in (0, 1)
        for place, (question, a, b) in enumerate(zip(questions, answers, others, strict=True))
        if not (a.failed or b.failed)
    ]


def judge(
    cases: Sequence[Case], asked: Asked, client: Client, journal: Journal, output: Path
) -> str:
    """Asks a judge, and writes the verdicts; what the journal has is not asked again.

    Args:
        cases: What to ask.
        asked: How.
        client: Asks the server.
        journal: Of the judge.
        output: The file of verdicts, in the order of the cases, JSON lines of `Judgement`'s fields.
    Returns:
        '' or a sentence that says why verdicts are missing.
    Raises:
        ValueError, OSError: as `ask_all`; the journal keeps what there is.
    """
    found: list[Judgement] = []
    places: list[int] = []  # of those to ask again

    def first(reply: Reply) -> bool:
        case = cases[len(found)]
        found.append(_verdict(case, reply))
        if found[-1].value is None and not reply.error:
            places.append(len(found) - 1)
        return len(places) == len(found) >= HOPELESS

    def second(reply: Reply) -> bool:
        place = next(waiting)
        if not reply.error:
            found[place] = _verdict(cases[place], reply)._replace(again=True)
        return False

    async def both() -> str:
        requests = (Request(case.index, asked.body(case.prompt)) for case in cases)
        ended = await ask(requests, client, journal, asked, first, 'judged', len(cases))
        if ended != 'exhausted' or not places:
            return ended
        requests = (
            Request(AGAIN + case.index, asked.body(case.prompt, found[at].reply, case.again))
            for at, case in ((at, cases[at]) for at in places)
        )
        return await ask(requests, client, journal, asked, second, 'asked again', len(places))

    waiting = iter(places)
    ended = answering.ended_by(both())
    write(output, found)
    if found and all(v.value is None and not v.error for v in found) and ended != 'interrupted':
        last = ' '.join(found[-1].reply.split())[:200]
        raise ValueError(
            f'nothing could be read from {len(found):,} replies of {asked.model}, the last of them '
            f'{last!r}: look at {output}; another judge or other --prompts may help.'
        )
    if ended != 'exhausted':
        return answering.unfinished(ended, f'{len(found):,} of {len(cases):,} judgings are made')
    return answering.given_up([verdict.error for verdict in found], 'judgings')


async def judge_one(case: Case, asked: Asked, client: Client) -> Judgement:
    """Asks a judge about one case, once more if its reply cannot be read; no journal keeps it."""
    found = _verdict(case, await client.ask(Request(case.index, asked.body(case.prompt))))
    if found.error or found.value is not None:
        return found
    again = asked.body(case.prompt, found.reply, case.again)
    second = await client.ask(Request(AGAIN + case.index, again))
    return found if second.error else _verdict(case, second)._replace(again=True)


def _verdict(case: Case, reply: Reply) -> Judgement:
    value = None if reply.error else case.read(reply.text)
    question = case.question
    return Judgement(
        question.number, question.kind, case.judging, value, reply.text, error=reply.error
    )


def write(path: Path, found: Sequence[Judgement]) -> None:
    """Writes verdicts."""
    with WholeText(path) as file:
        for verdict in found:
            file.write(json.dumps(verdict._asdict(), ensure_ascii=False) + '\n')


def read(path: Path) -> list[Judgement]:
    """The verdicts of a file.

    Raises:
        ValueError: it is not there, or is none of ours.
    """
    try:
        lines = path.read_text('utf-8').split('\n')  # a reply may have ends of lines of its own
        return [Judgement(**json.loads(line)) for line in lines if line]
    except FileNotFoundError as error:
        raise ValueError(f'{path} is not there: let a judge score the answers first.') from error
    except (ValueError, TypeError) as error:
        raise ValueError(f'{path} is no file of verdicts: delete it and judge again.') from error
