"""The template `tokenizer`: the chat template that the tokenizer itself brings, a Jinja source.

The source writes one text, as transformers renders it, without importing that. The text is cut in
front of each answer, so that the prompt is the beginning of what was trained on, and at special
tokens, which stand as ids; the ones that a user typed are hidden while the template runs and remain
text.

Templates come from strangers: they run in Jinja's sandbox, which reaches no attribute of Python's
and cannot change what it is given.
"""

import functools
import json
import re
from collections.abc import Sequence
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox

from belle_jax.data.records import Message
from belle_jax.data.tokenizer import Piece, Tokenizer

PRIVATE = range(0xE000, 0xF900)  # code points that Unicode gives no meaning
PROBE: list[Message] = [
    {'role': 'user', 'content': 'a'},
    {'role': 'assistant', 'content': 'b'},
    {'role': 'user', 'content': 'c'},
    {'role': 'assistant', 'content': 'd'},
]


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
        names = sorted(tokenizer.special, key=len, reverse=True)
        self._special = re.compile('|'.join(map(re.escape, names)) or r'(?!)')
        self._eos = tokenizer.token(tokenizer.eos_id)
        settings = {'bos': tokenizer.bos_id, 'eos': tokenizer.eos_id, 'pad': tokenizer.pad_id}
        self._names = {
            f'{kind}_token': tokenizer.token(i) for kind, i in settings.items() if i is not None
        }
        # Some templates rewrite earlier answers (Qwen drops their thoughts): then the prompt of a
        # turn does not begin with the turns before, and each answer is an example of its own.
        self.rewrites = not self._is_stable()

    def pieces(self, roles: Sequence[str], texts: Sequence[str]) -> list[Piece]:
        """The pieces of a conversation, in order.

        Args:
            roles: Of the turns, which are in an order that can be written.
            texts: What is said in each.
        """
        plain, mark = self._hidden(roles, texts)
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

    def _render(self, messages: list[Message], *, generate: bool) -> str:
        return render(self.source, messages, generate=generate, **self._names)

    def _answers(self, messages: list[Message], text: str) -> list[tuple[int, int]]:
        """Where each answer begins and ends in the text, its end-of-sequence token included."""
        spans = []
        last = len(messages) - 1
        for i, message in enumerate(messages):
            if message['role'] != 'assistant' or (i != last and self.rewrites):
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

    def _hidden(self, roles: Sequence[str], texts: Sequence[str]) -> tuple[list[Message], str]:
        """Turns with a private character inside each special token that somebody typed."""
        used = set().union(*texts)
        mark = next(chr(code) for code in PRIVATE if chr(code) not in used)
        hidden = (self._special.sub(lambda s: s[0][0] + mark + s[0][1:], t) for t in texts)
        return [{'role': r, 'content': t} for r, t in zip(roles, hidden)], mark


class _Generation(jinja2.ext.Extension):
    """`{% generation %}`, which marks what is trained on in some templates, shows its content."""

    tags = {'generation'}  # noqa: RUF012 - the name and type are Jinja's

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(('name:endgeneration',), drop_needle=True)


def render(template: str, messages: list[dict[str, Any]], *, generate: bool, **tokens: str) -> str:
    """The text of a conversation.

    Args:
        template: Jinja source, a tokenizer's `chat_template`.
        messages: Turns with `role` and `content`.
        generate: Whether to end with what comes before an answer.
        **tokens: `bos_token`, `eos_token` and the like, as the template names them.
    Returns:
        The text, special tokens spelled out.
    Raises:
        ValueError: the template refuses these messages, or is not a valid template.
    Source: huggingface/transformers, utils/chat_template_utils.py.
    """
    try:
        compiled = _compile(template)
        return compiled.render(messages=messages, add_generation_prompt=generate, **tokens)
    except jinja2.TemplateError as error:
        raise ValueError(f"the tokenizer's chat_template says: {error}") from error


@functools.lru_cache(maxsize=16)
def _compile(template: str) -> jinja2.Template:
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_Generation, 'jinja2.ext.loopcontrols'],
    )
    environment.filters['tojson'] = lambda value, indent=None: json.dumps(
        value, ensure_ascii=False, indent=indent
    )
    environment.globals['raise_exception'] = _refuse
    # A template that writes today's date would give other tokens tomorrow: the date stands still.
    environment.globals['strftime_now'] = lambda form: '2024-07-26'
    return environment.from_string(template)


def _refuse(message: str) -> None:
    raise jinja2.TemplateError(message)
