"""The public interface: what `help(belle_jax)` shows runs, and says what the programs say."""

import json
import pydoc
import subprocess
import sys
import textwrap
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import belle_jax
import training_runs
from belle_jax import config
from tiny import write_model


def example() -> str:
    """The Python of the package's docstring."""
    lines = (belle_jax.__doc__ or '').splitlines()
    return textwrap.dedent('\n'.join(line for line in lines if line.startswith('    ')))


def test_the_example_of_the_docstring_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / 'model')
    row = {'instruction': '一加一', 'input': '', 'output': '二'}
    (tmp_path / 'mine.jsonl').write_text(json.dumps(row, ensure_ascii=False) + '\n', 'utf-8')
    defaults = config.default()

    def small():
        c: Any = defaults
        c.data.update(seq_len=64, cache_dir=str(tmp_path / 'cache'))
        c.mesh.fsdp = 8
        c.train.steps = 1
        return c

    monkeypatch.setattr(config, 'default', small)
    text = example()
    assert len([line for line in text.splitlines() if line]) <= 10
    exec(text.replace('bigscience/bloomz-560m', 'model'), {})
    assert float(capsys.readouterr().out.splitlines()[-1]) < 0
    assert (tmp_path / 'runs' / 'mine' / 'config.json').is_file()


@pytest.fixture(scope='module')
def assistant(tmp_path_factory):
    target = tmp_path_factory.mktemp('public') / 'model'
    write_model(target)
    return belle_jax.load(target, template='belle', system='Short.')


def test_an_answer_is_that_of_the_engine_and_prompts_may_be_conversations(assistant):
    turns = [{'role': 'user', 'content': 'What?'}]
    text, chat = belle_jax.generate(
        assistant, ['What?', turns], max_new_tokens=6, temperature=0.0, min_new_tokens=3
    )
    assert text == chat and 3 <= text.completion_tokens <= 6
    words = assistant.voice.tokenizer
    assert text.prompt_tokens == len(words.encode('Short.\n\nHuman: What?\n\nAssistant:'))
    assert text.text == words.decode(text.tokens).lstrip()


def test_a_score_is_the_log_probability_of_the_answers_tokens_and_of_its_end(assistant):
    prompts, answers = ['What?', 'a longer question'], ['this', 'that one']
    scores = belle_jax.score(assistant, prompts, answers)
    engine, words = assistant.engine, assistant.voice.tokenizer
    for prompt, answer, given in zip(prompts, answers, scores, strict=True):
        start = words.encode(f'Short.\n\nHuman: {prompt}\n\nAssistant:')
        tokens = [*start, *words.encode(answer), words.eos_id]
        with engine.on_mesh():
            from flax import nnx

            logits = nnx.merge(engine.graphdef, engine.params)(jnp.asarray([tokens[:-1]]))
        expected = np.asarray(jax.nn.log_softmax(logits[0]))[range(len(tokens) - 1), tokens[1:]]
        np.testing.assert_allclose(given, expected[len(start) - 1 :], atol=1e-4)
        assert len(given) == len(answer) + 1
    with pytest.raises(ValueError):
        belle_jax.score(assistant, prompts, answers[:1])


def test_help_shows_the_public_interface_and_importing_the_package_is_light():
    text = pydoc.plain(pydoc.render_doc(belle_jax))
    for name in belle_jax.__all__:
        assert getattr(belle_jax, name).__doc__
        assert f'    {name}(' in text or f'class {name}(' in text
    with pytest.raises(AttributeError, match='no_such'):
        _ = belle_jax.no_such  # pyright: ignore[reportAttributeAccessIssue]
    code = 'import sys, belle_jax; belle_jax.load; sys.exit("jax" in sys.modules)'
    root = training_runs.ROOT
    assert subprocess.run([sys.executable, '-c', code], cwd=root, check=False).returncode == 0
