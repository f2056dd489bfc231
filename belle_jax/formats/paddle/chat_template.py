"""PaddleNLP's `chat_template.json`, and which template of this package says the same.

PaddleNLP's file is no `chat_template` of Hugging Face's: it is an object of Jinja sources, `system`
once at the start, `conversation` for a turn that was answered (the user's part and the bot's) and
`query` for the one that was not. Two templates are the same here when they write the same texts for
the conversations below, special tokens spelled out.
Source: ChatTemplate in paddlenlp/transformers/tokenizer_utils.py of paddlenlp 2.8.
"""

import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jinja2.sandbox

from belle_jax.data import jinja_template, template_export
from belle_jax.data.records import Message
from belle_jax.data.templates import Template
from belle_jax.data.tokenizer import Tokenizer
from belle_jax.files import read_json

FILE = 'chat_template.json'
NAMES = ('belle', 'belle_card', 'belle_sft', 'alpaca')
TURNS = [[m for m in probe if m['role'] != 'system'] for probe in template_export.PROBES]
PROMPTS = [turns[: end + 1] for turns in TURNS for end in range(0, len(turns), 2)]
# As PaddleNLP makes it: a line break at the end of a source is kept, unlike in transformers.
SANDBOX = jinja2.sandbox.ImmutableSandboxedEnvironment(
    trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
)


def read(directory: Path) -> dict[str, Any] | None:
    """PaddleNLP's template; None where there is none, or the file is Hugging Face's.

    Raises:
        ValueError: the file is not a JSON object.
    """
    path = directory / FILE
    values = read_json(path) if path.is_file() else {}
    return values if {'conversation', 'query'} & values.keys() else None


def name_of_paddles(values: dict[str, Any], tokenizer: Tokenizer) -> tuple[str, bool]:
    """The template of this package that says what PaddleNLP's says.

    Args:
        values: What `read` gave; its sources run in Jinja's sandbox.
        tokenizer: What spells special tokens.
    Returns:
        Its name, '' if none writes a first prompt so; whether later turns are written so, too.
    """
    return _name(functools.partial(_paddles, values), tokenizer)


def name_of_own(tokenizer: Tokenizer) -> tuple[str, bool]:
    """The same for a tokenizer's own `chat_template`."""
    ids = {'bos_token': tokenizer.bos_id, 'eos_token': tokenizer.eos_id}
    spelled = {name: tokenizer.token(i) for name, i in ids.items() if i is not None}
    own = functools.partial(
        jinja_template.render, tokenizer.chat_template or '', generate=True, **spelled
    )
    return _name(own, tokenizer)


def paddles(name: str, tokenizer: Tokenizer) -> str | None:
    """PaddleNLP's file for a template.

    Args:
        name: One of `NAMES`.
        tokenizer: What spells special tokens.
    Returns:
        Its text; None where PaddleNLP's format cannot say it.
    """
    template = Template(name, tokenizer)
    before, after = template.style.user.split('{}')
    start = _ours(template, [{'role': 'user', 'content': ''}]).removesuffix(before + after)
    values: dict[str, Any] = {'system': start} if start else {}
    eos = tokenizer.token(tokenizer.eos_id)
    values['conversation'] = [before + '{{user}}' + after, '{{bot}}' + eos]
    values['query'] = before + '{{query}}' + after
    if name_of_paddles(values, tokenizer) != (name, True):
        return None
    return json.dumps(values, indent=4, ensure_ascii=False) + '\n'


def _name(write: Callable[[list[Message]], str], tokenizer: Tokenizer) -> tuple[str, bool]:
    def same(template: Template, messages: list[Message]) -> bool:
        try:
            return write(messages) == _ours(template, messages)
        except Exception:  # a stranger's template refuses them, divides by zero, or worse
            return False

    made = [Template(name, tokenizer) for name in NAMES]
    alike = [template for template in made if same(template, PROMPTS[0])]
    for template in alike:
        if all(same(template, messages) for messages in PROMPTS):
            return template.name, True
    return (alike[0].name if alike else ''), False


def _ours(template: Template, messages: Sequence[Message]) -> str:
    pieces = (piece.content for piece in template.pieces(messages))
    return ''.join(p if isinstance(p, str) else template.tokenizer.token(p) for p in pieces)


def _paddles(values: dict[str, Any], messages: Sequence[Message]) -> str:
    def fill(source: str, **given: Any) -> str:
        return SANDBOX.from_string(source).render(is_training=False, **given)

    *turns, query = [m['content'] for m in messages]
    out = '' if values.get('system') is None else fill(values['system'])
    for index, (user, bot) in enumerate(zip(turns[::2], turns[1::2])):
        place = {'index': index, 'is_first': index == 0, 'is_last': False}
        out += ''.join(fill(s, user=user, bot=bot, **place) for s in values['conversation'])
    if values.get('query') is None:
        return out + query
    return out + fill(values['query'], query=query, index=len(turns) // 2)
