"""The chat templates by name, and each as Hugging Face's `chat_template`."""

from belle_jax.data import chat_export
from belle_jax.data.chat import Template
from belle_jax.data.chat_own import OwnTemplate
from belle_jax.data.tokenizer import Tokenizer

NAMES = ('belle', 'belle_card', 'belle_sft', 'alpaca', 'tokenizer', 'none')


def template(name: str, tokenizer: Tokenizer) -> Template:
    """The template of a name.

    Args:
        name: One of `NAMES`.
        tokenizer: What it writes tokens with.
    Returns:
        The template.
    Raises:
        ValueError: an unknown name, or `tokenizer` where the tokenizer has no template of its own.
    """
    if name not in NAMES:
        raise ValueError(
            f'data.template={name!r} is not known: choose one of {", ".join(NAMES)} with '
            '--config.data.template.'
        )
    if name == 'tokenizer':
        return OwnTemplate(tokenizer)
    return Template(name, tokenizer)


def export(template: Template) -> tuple[str | None, str]:
    """A template as a Hugging Face `chat_template`.

    Args:
        template: From `template`.
    Returns:
        Jinja source, and a sentence about what it cannot say; None and the reason where it would
        give other tokens than training saw.
    """
    if isinstance(template, OwnTemplate):
        return template.source, "The tokenizer's own."
    return chat_export.checked(template)
