"""Evaluation of several sources while training, beside transformers on the exported model."""

import json
import math

import pytest

import training_runs
from belle_jax import config
from belle_jax.runs.conversion import to_huggingface
from belle_jax.training.loop import Trainer

torch = pytest.importorskip('torch')
transformers = pytest.importorskip('transformers')
pytestmark = pytest.mark.parity

TEXTS = {'一.jsonl': ['天地玄黄', '宇宙洪荒日月盈昃', '辰'], '二.jsonl': ['寒来暑往倒写']}


def test_each_source_by_itself_as_transformers_has_it(tmp_path, capsys):
    c = training_runs.configured(tmp_path)
    for name, texts in TEXTS.items():
        rows = ''.join(json.dumps({'text': text}) + '\n' for text in texts)
        (tmp_path / name).write_text(rows, 'utf-8')
    c.data.validation.path = ','.join(str(tmp_path / name) for name in TEXTS)
    c.train.update(steps=2, eval_every=2)
    run = Trainer(config.resolve(c), tmp_path / 'run').train()

    to_huggingface(run, tmp_path / 'hf')
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / 'hf', dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / 'hf')
    nats, counted = {}, {}
    for name, texts in TEXTS.items():
        nats[name] = counted[name] = 0
        for text in texts:
            ids = tokenizer.encode(text, add_special_tokens=False)  # a token each; the first
            ids = torch.tensor([[*ids, tokenizer.eos_token_id]])  # is not foretold
            with torch.no_grad():
                nats[name] += float(model(ids, labels=ids).loss) * (ids.shape[1] - 1)
            counted[name] += ids.shape[1] - 1

    lines = (run / 'metrics' / 'metrics.jsonl').read_text('utf-8').splitlines()
    found = next(r for r in map(json.loads, lines) if 'evaluation_loss' in r)
    for name, texts in TEXTS.items():
        bits = nats[name] / math.log(2) / sum(len(text) - 1 for text in texts)
        assert found[f'evaluation_bits_per_character/{name}'] == pytest.approx(bits, rel=1e-5)
        loss = nats[name] / counted[name]
        assert found[f'evaluation_loss/{name}'] == pytest.approx(loss, rel=1e-5)
        assert found[f'evaluation_perplexity/{name}'] == pytest.approx(math.exp(loss), rel=1e-4)
    loss = sum(nats.values()) / sum(counted.values())
    assert found['evaluation_loss'] == pytest.approx(loss, rel=1e-5)
    characters = sum(len(text) - 1 for texts in TEXTS.values() for text in texts)
    bits = sum(nats.values()) / math.log(2) / characters
    assert found['evaluation_bits_per_character'] == pytest.approx(bits, rel=1e-5)
    parts = [f'{n} {found[f"evaluation_bits_per_character/{n}"]:.4f}' for n in TEXTS]
    assert f'{bits:.4f} bits a character ({", ".join(parts)})' in capsys.readouterr().err
