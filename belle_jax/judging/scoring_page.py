"""A page to score single answers: a question of a set or one's own, an answer pasted or made.

The judge is asked by this process, so that the key of its server never gets into a browser.
"""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from belle_jax.api import Client, Request
from belle_jax.judging import scoring
from belle_jax.judging.answering import Asked, Response
from belle_jax.judging.questions import Question, kind_of
from belle_jax.judging.rubrics import PAIR, Rubrics
from belle_jax.pages.page import render
from belle_jax.pages.server import PageServer

ASSETS = ('style.css', 'scoring.css', 'scoring.js')
LISTED = 100  # questions that a search shows


class ScoringPage:
    """What the page asks for. Methods may be called from any thread."""

    def __init__(
        self,
        questions: Sequence[Question],
        rubrics: Rubrics,
        judge: Asked,
        client: Callable[[], Client],
        models: Mapping[str, Callable[[str], str]],
    ) -> None:
        """
        Args:
            questions: To choose from.
            rubrics: The judge's prompts.
            judge: How it is asked.
            client: Makes what asks it, for one click.
            models: What answers a question, by name.
        """
        rubrics.require(question.kind for question in questions)
        self._questions, self._rubrics, self._judge = questions, rubrics, judge
        self._client, self._models = client, models
        self._answering = threading.Lock()  # a model of ours answers one question at a time

    def page(self, query: Mapping[str, str]) -> str:
        """The page, which asks for everything else."""
        kinds = [kind for kind in self._rubrics.prompts if kind != PAIR]
        counts = Counter(question.kind for question in self._questions)
        return render(
            'scoring.jinja',
            judge=self._judge.model,
            kinds=[(kind, counts[kind]) for kind in kinds],
            models=list(self._models),
        )

    def questions(self, query: Mapping[str, str]) -> dict[str, Any]:
        """The questions that a search finds.

        Args:
            query: `search`, of which upper and lower case are the same, and `kind`.
        """
        words, kind = query.get('search', '').casefold(), query.get('kind', '')
        found = [
            question._asdict()
            for question in self._questions
            if kind in ('', question.kind) and words in question.text.casefold()
        ]
        return {'questions': found[:LISTED], 'found': len(found)}

    def score(self, asked: Any) -> dict[str, Any]:
        """Has the judge score an answer.

        Args:
            asked: `question`, `reference`, `kind` and `answer`.
        Returns:
            The score (None: unparsed), the judge's reply, and whether it was asked again.
        Raises:
            ValueError: something is missing, or the server refuses the request.
            OSError: it does not answer.
        """
        text, reference, kind, answer = _texts(asked, 'question', 'reference', 'kind', 'answer')
        if not text.strip() or not answer.strip():
            raise ValueError('give a question and an answer to it.')
        question = Question(1, text, reference, kind_of(kind))
        (case,) = scoring.singles([question], [Response(answer)], self._rubrics, 1)

        async def once() -> scoring.Judgement:
            async with self._client() as client:
                return await scoring.judge_one(case, self._judge, client)

        found = asyncio.run(once())
        if found.error:
            raise ValueError(f'the judge gave no reply: {found.error}')
        return {'score': found.value, 'reply': found.reply, 'again': found.again}

    def answer(self, asked: Any) -> dict[str, str]:
        """Has a model answer.

        Args:
            asked: `question`, and `model`, its name.
        Raises:
            ValueError: there is no such model, the question is empty or does not fit the model.
            OSError: a server does not answer.
        """
        text, name = _texts(asked, 'question', 'model')
        if name not in self._models or not text.strip():
            raise ValueError('give a question, and a model that is there.')
        with self._answering:
            return {'answer': self._models[name](text)}


def _texts(asked: Any, *names: str) -> list[str]:
    found = [asked.get(name) if isinstance(asked, dict) else None for name in names]
    if not all(isinstance(text, str) for text in found):
        raise ValueError(f'what is asked has {", ".join(names)}, each a text.')
    return [str(text) for text in found]


def of_server(asked: Asked, client: Callable[[], Client]) -> Callable[[str], str]:
    """What has a server's model answer a question."""

    async def once(text: str) -> str:
        async with client() as opened:
            reply = await opened.ask(Request(0, asked.body(text)))
        if reply.error:
            raise ValueError(f'{asked.model} gave no answer: {reply.error}')
        return reply.text

    return lambda text: asyncio.run(once(text))


def serve(page: ScoringPage, host: str, port: int) -> None:
    """Serves the page until Ctrl-C.

    Raises:
        ValueError: the port is taken.
    """
    get = {'': page.page, 'questions': page.questions}
    post = {'score': page.score, 'answer': page.answer}
    PageServer(get, post, ASSETS, host, port).serve()
