"""Templates of strangers within their bounds."""

import pytest

from belle_jax.data import template_process
from belle_jax.data.template_process import Renderer, TemplateRefused

LOOPS = '{% for a in range(99999) %}' * 3 + '{% endfor %}' * 3


@pytest.fixture
def renderer(monkeypatch):
    monkeypatch.setattr(template_process, 'SECONDS', 1)
    made = Renderer()
    yield made
    made.close()


@pytest.mark.parametrize(
    'source', [LOOPS, "{{ 'a' * 10**10 }}", '{{ 9**(9**9) }}', "{{ 'a'|indent(10**10) }}"]
)
def test_a_template_without_end_is_ended_and_not_asked_again(renderer, source, monkeypatch):
    asked, ask = [], renderer._ask
    monkeypatch.setattr(renderer, '_ask', lambda request: asked.append(request) or ask(request))
    for _ in range(2):
        with pytest.raises(ValueError, match='it takes more than 1 s, 512 MB or 16,777,216'):
            renderer.render(source, {})
    assert len(asked) == 1
    assert renderer.render('{{ x }}!', {'x': 'on'}) == 'on!'  # another one goes on


def test_errors_and_refusals_are_told_apart(renderer):
    with pytest.raises(TemplateRefused, match='no'):
        renderer.render("{{ raise_exception('no') }}", {})
    with pytest.raises(ValueError, match='ZeroDivisionError: division by zero'):
        renderer.render('{{ 1 / 0 }}', {})
    assert renderer.render('a\n', {}, paddle=True) == 'a\n' != renderer.render('a\n', {})
