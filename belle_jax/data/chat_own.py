"""The template `tokenizer`: the chat template that the tokenizer itself brings.

Its Jinja source writes one text. That text is cut in front of each answer, so that the prompt is
the beginning of what was trained on, and at special tokens, which stand as ids; the ones that a
user typed are hidden while the template runs and remain text.
"""

import re
from collections.abc import Sequence
from typing import Any

from belle_jax.data import jinja
from belle_jax.data.chat import Message, Piece, Template, check, joined
from belle_jax.data.tokenizer import Tokenizer

PRIVATE = range(0xE000, 0xF900)  # code points that Unicode gives no meaning
PROBE: list[Message] = [
    {'role': 'user', 'content': 'a'},
    {'role': 'assistant', 'content': 'b'},
    {'role': 'user', 'content': 'c'},
    {'role': 'assistant', 'content': 'd'},
]


class OwnTemplate(Template):
    """Writes through the tokenizer's `chat_template`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__('tokenizer', tokenizer)
        if not tokenizer.chat_template:
            raise ValueError(
                f"data.template='tokenizer', but {tokenizer.directory} has no chat_template: "
                'choose a named template with --config.data.template.'
            )
        self.source = tokenizer.chat_template
        names = sorted(tokenizer.special, key=len, reverse=True)
        self._special = re.compile('|'.join(map(re.escape, names)) or r'(?!)')
        self._eos = tokenizer.token(tokenizer.eos_id)
        settings = {'bos': tokenizer.bos_id, 'eos': tokenizer.eos_id, 'pad': tokenizer.pad_id}
        self._names = {
            f'{kind}_token': tokenizer.token(i) for kind, i in settings.items() if i is not None
        }
        # Some templates rewrite earlier answers (Qwen drops their thoughts): then the prompt of a
        # turn does not begin with the turns before, and each answer is an example of its own.
        self._stable = self._is_stable()

    def fingerprint(self) -> str:
        return repr((self.name, self.source))

    def examples(self, messages: Sequence[Message]) -> list[list[Piece]]:
        if self._stable:
            return [self.pieces(messages)]
        answers = [i for i, m in enumerate(messages) if m['role'] == 'assistant']
        return [self.pieces(messages[: i + 1]) for i in answers] or [self.pieces(messages)]

    def pieces(self, messages: Sequence[Message]) -> list[Piece]:
        check(messages)
        plain, mark = self._hidden(messages)
        text = self._render(plain, generate=plain[-1]['role'] == 'user')
        pieces: list[Piece] = []
        done = 0
        for start, end in self._answers(plain, text):
            pieces += self._split(text[done:start], done == 0, False, mark)
            pieces += self._split(text[start:end], False, True, mark)
            done = end
        if plain[-1]['role'] == 'user':  # what follows the last answer's end is never read
            pieces += self._split(text[done:], done == 0, False, mark)
        return pieces

    def _render(self, messages: list[dict[str, Any]], *, generate: bool) -> str:
        return jinja.render(self.source, messages, generate=generate, **self._names)

    def _answers(self, messages: list[dict[str, Any]], text: str) -> list[tuple[int, int]]:
        """Where each answer begins and ends in the text, its end-of-sequence token included."""
        spans = []
        last = len(messages) - 1
        for i, message in enumerate(messages):
            if message['role'] != 'assistant' or (i != last and not self._stable):
                continue
            start = self._render(messages[:i], generate=True)
            so_far = text if i == last else self._render(messages[: i + 1], generate=False)
            end = so_far.find(self._eos, len(start)) + len(self._eos)
            if not so_far.startswith(start) or end < len(self._eos) or text[:end] != so_far[:end]:
                raise ValueError(
                    "the tokenizer's chat_template does not write an answer after its own prompt "
                    f'and end it with {self._eos}: choose a named template with '
                    '--config.data.template.'
                )
            spans.append((len(start), end))
        return spans

    def _is_stable(self) -> bool:
        whole = self._render(PROBE, generate=False)
        prompt = self._render(PROBE[:1], generate=True)
        later = self._render(PROBE[:3], generate=True)
        return whole.startswith(prompt) and whole.startswith(later) and later.startswith(prompt)

    def _split(self, text: str, first: bool, trained: bool, mark: str) -> list[Piece]:
        """Text between special tokens, and the tokens; nothing of empty text."""
        pieces, done = [], 0
        for match in [*self._special.finditer(text), None]:
            part = text[done : match.start() if match else len(text)].replace(mark, '')
            if part:
                spaced = first if done == 0 else self.tokenizer.spaces_after_special
                pieces.append(Piece(part, trained, not spaced))
            if match:
                pieces.append(Piece(self.tokenizer.special[match.group()], trained))
                done = match.end()
        return pieces

    def _hidden(self, messages: Sequence[Message]) -> tuple[list[dict[str, Any]], str]:
        """The messages with a private character inside each special token that somebody typed."""
        texts = [joined(m, self.style.join) for m in messages]
        used = set().union(*texts)
        mark = next(chr(code) for code in PRIVATE if chr(code) not in used)
        plain = [
            {
                'role': m['role'],
                'content': self._special.sub(lambda s: s[0][0] + mark + s[0][1:], t),
            }
            for m, t in zip(messages, texts)
        ]
        return plain, mark
