"""The template `tokenizer`: the chat template that the tokenizer itself brings, a Jinja source.

The source writes one text, as transformers renders it, without importing that. The text is cut in
front of each answer, so that the prompt is the beginning of what was trained on, and at special
tokens, which stand as ids; the ones that a user typed are hidden while the template runs and remain
text.

Templates come from strangers: `template_process` renders them, within bounds.
"""

import itertools
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from belle_jax.data.marked_text import MarkedText
from belle_jax.data.records import Message
from belle_jax.data.template_process import RENDERER, TemplateRefused
from belle_jax.data.tokenizer import Piece, Tokenizer

PRIVATE = range(0xE000, 0xF900)  # code points that Unicode gives no meaning


class AnswerSpan(NamedTuple):
    """Where an answer stands in a rendered text, its end-of-sequence token included."""

    start: int
    end: int
    learnt: tuple[tuple[int, int], ...]  # begins and ends of what is trained on


class JinjaTemplate:
    """Writes through the tokenizer's `chat_template`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        if not tokenizer.chat_template:
            raise ValueError(
                f"data.template='tokenizer', but {tokenizer.directory} has no chat_template: "
                'choose a named template with --config.data.template.'
            )
        self.source = tokenizer.chat_template
        self.marked = MarkedText(tokenizer)
        self.eos = tokenizer.token(tokenizer.eos_id)

    def fingerprint(self) -> str:
        """What decides the pieces, as text."""
        tokenizer = self.tokenizer
        return repr((self.source, tokenizer.dummy, tokenizer.names, sorted(tokenizer.special)))

    def pieces(self, turns: Sequence[Message]) -> list[Piece]:
        """The pieces of a conversation that the assistant is to go on with, in order."""
        shown = _Rendering(self, turns)
        text = shown.text(len(turns), generate=True)
        return self._pieces(text, shown.answers(text, len(turns)), shown.mark)

    def examples(self, turns: Sequence[Message]) -> list[list[Piece]]:
        """What is trained on for one conversation: normally all answers in one example.

        Some templates rewrite earlier answers (Qwen3 drops their thoughts), so that what sampling
        sent is not the beginning of the whole: then each answer is an example of its own.

        Raises:
            ValueError: the template does not write an answer after its own prompt and end it.
        """
        shown = _Rendering(self, turns)
        asked = [i for i, turn in enumerate(turns) if turn['role'] == 'assistant']
        whole = shown.text(len(turns), generate=False)
        answers = shown.answers(whole, len(turns))
        if len(answers) == len(asked):
            return [self._pieces(whole, answers, shown.mark)]
        examples = []
        for i in asked:
            text = shown.text(i + 1, generate=False)
            last = shown.answer(text, i)
            if last is None:
                raise ValueError(
                    f"{self.tokenizer.directory}: the tokenizer's chat_template does not write an "
                    f'answer after its own prompt and end it with {self.eos}: choose a named '
                    'template with --config.data.template.'
                )
            before = [answer._replace(learnt=()) for answer in shown.answers(text, i)]
            examples.append(self._pieces(text, [*before, last], shown.mark))
        return examples

    def hide(self, text: str, mark: str) -> str:
        """A text that holds no special token, because a mark stands inside each."""
        return self.marked.names.sub(lambda found: found[0][0] + mark + found[0][1:], text)

    def _pieces(self, text: str, answers: Sequence[AnswerSpan], mark: str) -> list[Piece]:
        """Text between special tokens and in and around answers, and the tokens."""
        pieces = []
        learnt = [span for answer in answers for span in answer.learnt]
        cuts = sorted({*itertools.chain(*((a.start, a.end) for a in answers), *learnt)})
        for start, end, index in self.marked.stretches(text):
            edges = [start, *(cut for cut in cuts if start < cut < end), end]
            for begin, close in itertools.pairwise(edges):
                trained = any(first <= begin < last for first, last in learnt)
                part = text[begin:close].replace(mark, '')
                if index is not None:
                    pieces.append(Piece(index, trained))
                    break  # a token is whole, and belongs to what it begins in
                if part:
                    spaced = begin == start and self.marked.spaced(part, first=begin == 0)
                    pieces.append(Piece(part, trained, not spaced))
        return pieces


class _Rendering:
    """What the template makes of the first turns of one conversation.

    Attributes:
        mark: A private character inside each special token that somebody typed.
    """

    def __init__(self, template: JinjaTemplate, turns: Sequence[Message]) -> None:
        used = set(template.source).union(*(turn['content'] for turn in turns))
        free = (chr(code) for code in PRIVATE if chr(code) not in used)
        self.mark, self._begin, self._end = itertools.islice(free, 3)
        self._template, self._turns = template, turns
        self._texts: dict[tuple[int, bool], str] = {}
        self._learnt: dict[str, list[tuple[int, int]]] = {}
        self._hidden: list[Message] = [
            {'role': turn['role'], 'content': template.hide(turn['content'], self.mark)}
            for turn in turns
        ]

    def text(self, count: int, *, generate: bool) -> str:
        """The text of the first turns; `generate`: up to where an answer begins."""
        if (count, generate) not in self._texts:
            names = self._template.tokenizer.names
            marks = {'generation_begin': self._begin, 'generation_end': self._end}
            hidden, source = self._hidden[:count], self._template.source
            try:
                raw = render(source, hidden, generate=generate, **names, **marks)
            except ValueError as error:
                raise ValueError(f'{self._template.tokenizer.directory}: {error}') from error
            text, spans = '', []
            for part in re.split(f'({self._begin}.*?{self._end})', raw, flags=re.DOTALL):
                if part.startswith(self._begin):
                    part = part[1:-1]
                    spans.append((len(text), len(text) + len(part)))
                text += part
            self._texts[count, generate] = text
            self._learnt[text] = spans
        return self._texts[count, generate]

    def answer(self, text: str, turn: int) -> AnswerSpan | None:
        """Where the text has a turn's answer; None unless as sampling saw and would say it."""
        start = self.text(turn, generate=True)
        so_far = self.text(turn + 1, generate=False)
        eos = self._template.eos
        end = text.find(eos, len(start)) + len(eos)
        if not text.startswith(start) or end < len(eos) or text[:end] != so_far[:end]:
            return None
        learnt = [(len(start), end)]
        if marked := self._learnt[text]:  # the template itself marks what is learnt
            learnt = [span for span in marked if len(start) < span[1] and span[0] < len(so_far)]
            if not any(begin < end <= close for begin, close in learnt):
                return None  # nobody would learn to end
        trained = self._turns[turn].get('trained', True)
        return AnswerSpan(len(start), end, tuple(learnt if trained else ()))

    def answers(self, text: str, count: int) -> list[AnswerSpan]:
        """Those of the first turns that the text has."""
        asked = (i for i in range(count) if self._turns[i]['role'] == 'assistant')
        return [found for i in asked if (found := self.answer(text, i))]


def render(template: str, messages: list[dict[str, Any]], *, generate: bool, **names: str) -> str:
    """The text of a conversation.

    Args:
        template: Jinja source, a tokenizer's `chat_template`.
        messages: Turns with `role` and `content`.
        generate: Whether to end with what comes before an answer.
        **names: `bos_token`, `eos_token` and the like, as the template names them.
    Returns:
        The text, special tokens spelled out.
    Raises:
        ValueError: the template refuses these messages, or is not a valid template.
    Source: huggingface/transformers, utils/chat_template_utils.py.
    """
    given = {'tools': None, 'documents': None, 'add_generation_prompt': generate, **names}
    try:
        return RENDERER.render(template, {**given, 'messages': messages})
    except TemplateRefused as error:
        raise ValueError(f"the tokenizer's chat_template says: {error}") from error
    except ValueError as error:
        raise ValueError(
            f"the tokenizer's chat_template fails on this conversation ({error}): choose a named "
            'template with --config.data.template.'
        ) from error
