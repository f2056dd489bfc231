"""A tokenizer's own chat template, rendered as transformers renders it, without importing that.

Templates come from strangers: they run in Jinja's sandbox, which reaches no attribute of Python's
and cannot change what it is given.
"""

import functools
import json
from typing import Any

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
import jinja2.sandbox


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
        ValueError: the template refuses these messages, or is no valid template.
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
