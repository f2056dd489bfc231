"""lm-evaluation-harness: our models score as its backend for transformers does, per request."""

import json
import sys
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

TEXT = '盖闻天地之数，有十二万九千六百岁为一元。 One day, Lily went to the park. She saw a big dog! ' * 9


@pytest.fixture(scope='module')
def tiny_model(tmp_path_factory):
    target = tmp_path_factory.mktemp('tiny') / 'llama'
    tiny.write_model(target)
    return str(target)


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
