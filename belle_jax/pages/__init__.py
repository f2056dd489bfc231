"""Pages for people: charts, style and templates. They ask for nothing from elsewhere."""

import functools
import importlib.resources
from typing import Any

import jinja2
from markupsafe import Markup

LONGEST = 1500  # characters of a text that somebody or something else wrote


def render(template: str, **values: Any) -> str:
    """A page from a template of this folder.

    Args:
        template: The file's name.
        **values: What it shows; all that is not Markup is escaped.
    """
    return _environment().get_template(template).render(**values)


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__name__, ''),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        undefined=jinja2.StrictUndefined,
    )
    style = (importlib.resources.files(__name__) / 'style.css').read_text('utf-8')
    environment.globals['style'] = Markup(style)
    environment.filters['shortened'] = _shortened
    return environment


def _shortened(text: str) -> str:
    if len(text) <= LONGEST:
        return text
    return f'{text[:LONGEST]}… ({len(text) - LONGEST:,} characters more)'
