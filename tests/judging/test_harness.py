"""lm-evaluation-harness: our models score as its backend for transformers does, per request."""

import functools
import json
import re
import shutil
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import belle_jax
import llama2c
import tiny
from belle_jax.decoding import Sampling
from belle_jax.judging import harness
from belle_jax.judging.harness_model import HarnessModel, sampling
from benchmarks.harness_tasks import write_tasks

ROOT = Path(__file__).resolve().parents[2]
TEXT = (
    '盖闻天地之数，有十二万九千六百岁为一元。 One day, Lily went to the park. She saw a big dog! '
    * 9
)


@pytest.fixture(scope='module')
def tiny_model(tmp_path_factory):
    target = tmp_path_factory.mktemp('tiny') / 'llama'
    tiny.write_model(target)
    return str(target)


@pytest.fixture
def quick(monkeypatch):
    """The harness without what takes seconds: reading 14,000 task files, asking pip of versions."""
    pytest.importorskip('lm_eval', reason='lm-evaluation-harness is not installed')
    from lm_eval import tasks

    manager = functools.partial(tasks.TaskManager, include_defaults=False)
    monkeypatch.setattr('lm_eval.tasks.TaskManager', manager)
    monkeypatch.setattr('lm_eval.evaluator.add_env_info', lambda results: None)
    monkeypatch.setenv('DISABLE_MULTIPROC', '1')


def stories(target, shared):
    """A really trained model, whose tokenizer begins with BOS and puts a space in front."""
    source = shared / 'data' / 'tinystories-260k'
    llama2c.to_huggingface(source / 'stories260K.bin', source / 'tok512.model', target)
    settings: dict[str, str | bool] = dict.fromkeys(('add_bos_token', 'legacy'), True)
    settings |= {'tokenizer_class': 'LlamaTokenizer', 'bos_token': '<s>', 'eos_token': '</s>'}
    (target / 'tokenizer_config.json').write_text(json.dumps(settings), 'utf-8')
    return (source / 'tinystories_sample.txt').read_text('utf-8')


def answers(lm, folder, names):
    """The scores of each task, and each request's result."""
    from lm_eval import evaluator
    from lm_eval.tasks import TaskManager

    loaded = TaskManager(include_path=str(folder), include_defaults=False).load(names)
    for task in loaded['tasks'].values():
        task.set_config(key='num_fewshot', value=0)
    results = evaluator.evaluate(lm, loaded, bootstrap_iters=0, log_samples=True)
    found = {
        name: [response for sample in samples for response in sample['resps']]
        for name, samples in results['samples'].items()
    }
    return results['results'], found


@pytest.mark.parity
@pytest.mark.parametrize('name', ['llama', 'bloom', 'stories'])
def test_each_request_has_the_result_of_the_backend_for_transformers(name, shared, tmp_path):
    pytest.importorskip('lm_eval', reason='lm-evaluation-harness is not installed')
    pytest.importorskip('accelerate', reason="what the harness's other backend needs")
    from lm_eval.models.huggingface import HFLM

    path, text = tmp_path / name, TEXT
    if name == 'stories':
        text = stories(path, shared)
    else:
        tiny.write_model(path, family=name)
    names = write_tasks(tmp_path / 'tasks', text, 9)
    theirs = HFLM(str(path), device='cpu', dtype='float32', batch_size=4)
    expected, wanted = answers(theirs, tmp_path / 'tasks', names)
    scores, found = answers(harness.lm(str(path), batch_size=4), tmp_path / 'tasks', names)
    assert sorted(found) == sorted(names)
    for task in names:
        for ours, other in zip(found[task], wanted[task], strict=True):
            if task == 'local_answers':
                assert ours == other
            elif task == 'local_whole':
                assert ours[0] == pytest.approx(other[0], rel=1e-5)
            else:
                assert ours[0][0] == pytest.approx(other[0][0], rel=1e-5, abs=1e-5)
                assert ours[0][1] == other[0][1]
        for metric, value in expected[task].items():
            if not isinstance(value, str):
                assert scores[task][metric] == pytest.approx(value, rel=1e-4), metric


def test_conversations_are_scored_and_begun_with_the_tokens_of_training(tiny_model):
    """An answer is as likely as `belle_jax.score` finds it; a begun one counts from there."""
    pytest.importorskip('lm_eval', reason='lm-evaluation-harness is not installed')
    lm = harness.lm(tiny_model, template='belle', system='简短。')
    turns = [
        {'role': 'user', 'content': '1+1</s>'},
        {'role': 'assistant', 'content': '2'},
        {'role': 'user', 'content': '2+2'},
    ]
    asked = lm.apply_chat_template(turns)
    begun = lm.apply_chat_template([*turns, {'role': 'assistant', 'content': ' 是'}], False)
    text = '简短。\n\nHuman: 1+1</s>\n\nAssistant:2</s>Human: 2+2\n\nAssistant:'
    assert (asked, begun) == (text, text + ' 是')
    pairs = [(asked, ' 是四'), (asked, ' 是'), (begun, '四')]
    whole, first, rest = (
        total for total, _ in lm.loglikelihood([SimpleNamespace(args=pair) for pair in pairs])
    )
    assert whole == pytest.approx(first + rest, rel=1e-6)
    assistant = belle_jax.load(tiny_model, template='belle', system='简短。')
    [expected] = belle_jax.score(assistant, [turns], [' 是四'])
    assert whole == pytest.approx(expected[:-1].sum(), rel=1e-5)
    [answer] = belle_jax.generate(assistant, [turns], max_new_tokens=20)
    request = SimpleNamespace(args=(asked, {'until': [], 'max_gen_toks': 20}))
    assert lm.generate_until([request])[0].lstrip() == answer.text


@pytest.mark.usefixtures('quick')
def test_scores_are_printed_and_kept_with_what_they_are_of(tiny_model, tmp_path, monkeypatch):
    """Of a pattern, of a file, and of the page's own task."""
    monkeypatch.chdir(tmp_path)
    folder, output = tmp_path / 'tasks', tmp_path / 'new' / 'scores.json'
    write_tasks(folder, TEXT, 3)
    page = (ROOT / 'docs' / 'evaluation.md').read_text('utf-8')
    [task] = re.findall(r'^    # tasks/my_task.yaml\n(?:    .*\n)+', page, re.MULTILINE)
    (folder / 'my_task.yaml').write_text(textwrap.dedent(task), 'utf-8')
    said = harness.evaluate(
        tiny_model, ['local_l*', 'tasks/local_whole.yaml', 'my_task'], include_path='tasks',
        num_fewshot=1, limit=2, seq_len=128, apply_chat_template=True, template='alpaca',
        log_samples=True, output=str(output),
    )  # fmt: skip
    assert said.endswith(f'The figures are in {output}') and '|local_letters|' in said
    kept = json.loads(output.read_text('utf-8'))
    assert set(kept['results']) == {'local_letters', 'local_last', 'local_whole', 'my_task'}
    facts = ('model_source', 'template', 'max_length', 'model_dtype', 'limit')
    assert [kept['config'][fact] for fact in facts] == [tiny_model, 'alpaca', 128, 'float32', 2]
    sample = kept['samples']['my_task'][0]
    assert sample['arguments'][0][0].count('### Instruction:') == 2
    assert all(np.isfinite(response[0][0]) for response in sample['resps'])


@pytest.mark.parametrize(
    ('wrong', 'sentence'),
    [
        ({'tasks': ['lambda_openai']}, "--tasks: 'lambda_openai' is not a task of the harness"),
        ({'include_path': 'nowhere'}, '--include_path=nowhere is not a directory'),
        ({'limit': 0}, '--limit=0 must be above 0'),
        ({'seq_len': 300}, '--seq_len=300 is more than the 256 tokens that the model reads'),
    ],
)
@pytest.mark.usefixtures('quick')
def test_what_cannot_be_run_is_a_sentence(tiny_model, tmp_path, wrong, sentence):
    write_tasks(tmp_path, TEXT, 1)
    given = {'tasks': ['local_last'], 'include_path': str(tmp_path)} | wrong
    with pytest.raises(ValueError, match=sentence):
        harness.evaluate(tiny_model, **given)


def test_without_the_harness_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, 'lm_eval', None)
    with pytest.raises(ValueError, match="is not installed .*pip install 'belle-jax.harness.'"):
        harness.evaluate('model', ['task'])


def test_answers_too_long_for_the_model_and_texts_too_long_to_score_are_refused(tiny_model):
    model = HarnessModel(tiny_model, seq_len=32)
    for call, args, sentence in (
        (model.generate_until, ('a', {'max_gen_toks': 32}), 'answers of 32 tokens'),
        (model.loglikelihood, ('a', 'b' * 33), 'a text of 33 tokens'),
    ):
        with pytest.raises(ValueError, match=sentence):
            call([SimpleNamespace(args=args)])


def test_a_text_with_nothing_before_it_follows_the_first_token_of_texts(tiny_model):
    model = HarnessModel(tiny_model)
    bos = 1
    letters = [model._encode([c])[0][0] for c in ' ab']
    pairs = model._pairs([('', 'ab'), ('  ', 'ab'), ('a ', 'b'), ('', '<s>ab'), ('<s>a', 'b')])
    space, a, b = letters
    assert pairs == [
        ([bos], [a, b]), ([bos], [space, space, a, b]), ([a], [space, b]),
        ([bos], [a, b]), ([bos, a], [b]),
    ]  # fmt: skip


def test_a_token_that_spans_the_seam_leaves_the_continuation_its_own(shared, tmp_path):
    tiny.write_model(tmp_path / 'model')
    words = shared / 'data' / 'tokenizers' / 'zh_bpe_6400'
    for file in words.iterdir():
        shutil.copyfile(file, tmp_path / 'model' / file.name)
    model = HarnessModel(str(tmp_path / 'model'))
    [[first], [second], both] = model._encode(['人', '们', '人们'])
    assert len(both) == 1 and model._pairs([('人', '们')]) == [([first], [second])]


@pytest.mark.parametrize(
    ('asked', 'expected'),
    [
        ({}, Sampling(max_new_tokens=256)),
        ({'until': '\n', 'do_sample': False, 'temperature': 0.7}, Sampling(256, stop=('\n',))),
        ({'until': ['a', ''], 'max_tokens': 9, 'max_gen_toks': 8}, Sampling(8, stop=('a',))),
        ({'do_sample': True, 'top_p': 0.5}, Sampling(256, temperature=1.0, top_p=0.5)),
        ({'temperature': 0.2, 'until': None}, Sampling(256, temperature=0.2)),
    ],
)
def test_a_tasks_generation_settings_are_ours(asked, expected):
    assert sampling(asked) == expected


def test_a_generation_setting_that_decoding_does_not_know_is_refused():
    with pytest.raises(ValueError, match='typical_p, which decoding does not know: it knows'):
        sampling({'typical_p': 0.9})
