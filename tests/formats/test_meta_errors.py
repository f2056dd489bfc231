"""Meta's files that are wrong, models that its layout cannot say, disks that are full."""

import dataclasses
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from as_meta import (
    PARAMS,
    check_files,
    cut,
    from_meta,
    llama2,
    publish,
    ranks,
    sentencepiece,
    to_meta,
    torch,
    weights,
)
from belle_jax.formats import huggingface, meta
from belle_jax.weights import shards, torch_files

ROOT = Path(__file__).resolve().parents[2]


def change(path: Path, index: int, edit) -> None:
    """Rewrites one of the files."""
    file = path / f'consolidated.{index:02d}.pth'
    tensors = {name: tensor.clone() for name, tensor in torch.load(file).items()}
    edit(tensors)
    torch.save(tensors, file)


def set_params(path: Path, **values) -> None:
    params = json.loads((path / 'params.json').read_text())
    params = {k: v for k, v in (params | values).items() if v != 'missing'}
    (path / 'params.json').write_text(json.dumps(params))


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size * 2 // 3)


def resize(name: str, *shape: int):
    return lambda tensors: tensors.update({name: torch.ones(shape).bfloat16()})


WRONG = {
    'between': (lambda p: (p / 'consolidated.01.pth').unlink(), r'consolidated.01.pth is missing'),
    'the last': (
        lambda p: (p / 'consolidated.03.pth').unlink(),
        r'consolidated.03.pth is missing: layers.0.attention.wq.weight is one of 4 parts',
    ),
    'all': (lambda p: [f.unlink() for f in p.glob('*.pth')], 'holds no consolidated.00.pth'),
    'no params': (lambda p: (p / 'params.json').unlink(), 'params.json is missing'),
    'broken params': (lambda p: (p / 'params.json').write_text('{'), 'params.json is not readable'),
    'no dim': (lambda p: set_params(p, dim='missing'), r'params.json: dim=None must be'),
    'no eps': (lambda p: set_params(p, norm_eps='missing'), r'params.json: norm_eps=None must be'),
    'heads': (lambda p: set_params(p, n_heads='8'), r"params.json: n_heads='8' must be"),
    'head size': (lambda p: set_params(p, head_dim=7), r'head_dim=7 is not dim / n_heads'),
    'window': (lambda p: set_params(p, sliding_window=4096), r'sliding_window=4096 asks for more'),
    'norms': (lambda p: set_params(p, qk_norm=True), r'qk_norm=True asks for more'),
    'kv heads': (lambda p: set_params(p, n_kv_heads=3), r'n_heads=8 must be a multiple of the 3'),
    'few kv heads': (lambda p: set_params(p, n_kv_heads=2), r'4 files cannot .* 2 key-value heads'),
    'vocabulary': (lambda p: set_params(p, vocab_size=519), r'vocab_size=519, but .* 520 rows'),
    'quantised': (
        lambda p: set_params(p, quantization_args={'scheme': 'int4'}),
        'quantization_args=.* Take the original',
    ),
    'layers': (lambda p: set_params(p, n_layers=3), r'layers.2.\w+.* is missing from .*00.pth'),
    'left over': (lambda p: set_params(p, n_layers=1), r'layers.1.\w+.* belongs to no part'),
    'missing tensor': (
        lambda p: change(p, 2, lambda t: t.pop('layers.1.feed_forward.w2.weight')),
        r'layers.1.feed_forward.w2.weight is missing from .*consolidated.02.pth',
    ),
    'missing head': (
        lambda p: change(p, 1, lambda t: t.pop('output.weight')),
        r'output.weight is missing from .*consolidated.01.pth',
    ),
    'shape': (
        lambda p: change(p, 3, resize('layers.0.attention.wo.weight', 48, 48)),
        r'wo.weight in .*03.pth has shape \[48, 48\], but .* \[48, 12\], one of 4 parts',
    ),
    'vector': (
        lambda p: change(p, 0, resize('tok_embeddings.weight', 48)),
        r'tok_embeddings.weight in .* has shape \[48\]',
    ),
    'dtype': (
        lambda p: change(p, 1, lambda t: t.update({k: v.float() for k, v in t.items()})),
        r'01.pth is float32, and bfloat16 in consolidated.00.pth',
    ),
    'integers': (
        lambda p: [change(p, i, lambda t: t.update({k: v.char() for k, v in t.items()}))
                   for i in range(4)],
        'has dtype int8',
    ),
    'norm': (
        lambda p: change(p, 2, lambda t: t['layers.1.ffn_norm.weight'][7].add_(1)),
        r'layers.1.ffn_norm.weight in .*02.pth differs from the one in consolidated.00.pth',
    ),
    'truncated': (
        lambda p: truncate(p / 'consolidated.01.pth'),
        r'consolidated.01.pth cannot be read as PyTorch weights',
    ),
    'no tokenizer': (lambda p: (p / 'tokenizer.model').unlink(), 'tokenizer.model is missing, and'),
    'broken tokenizer': (
        lambda p: (p / 'tokenizer.model').write_bytes(b'\n\xff'),
        'tokenizer.model is not a SentencePiece model',
    ),
    'other tokenizer': (
        lambda p: (p / 'tokenizer.model').write_bytes(ranks() + b'YWJj 264\n'),
        'tokenizer.model has 521 tokens and the embedding 520 rows',
    ),
}  # fmt: skip


@pytest.mark.parametrize('what', WRONG)
def test_wrong_files_are_one_sentence_that_names_them(tmp_path, what):
    source = llama2(tmp_path / 'meta' / '7B', 4)
    damage, message = WRONG[what]
    damage(source)
    with pytest.raises(ValueError, match=message) as error:
        from_meta(source, tmp_path / 'hf')
    assert str(source) in str(error.value)
    assert '\n' not in str(error.value)
    assert [p.name for p in tmp_path.iterdir()] == ['meta']


@pytest.mark.parametrize(
    ('config', 'message'),
    [
        ({'attention_bias': True}, 'has biases'),
        ({'rope_theta': 1e4, 'rope_scaling': {'rope_type': 'linear', 'factor': 2.0}}, 'linear'),
        ({'hidden_act': 'gelu'}, 'the activation gelu'),
        ({'head_dim': 12}, '8 heads of 12 channels in 48'),
        (
            {
                'rope_scaling': {
                    'rope_type': 'llama3',
                    'factor': 16.0,
                    'low_freq_factor': 1.0,
                    'high_freq_factor': 4.0,
                    'original_max_position_embeddings': 8192,
                }
            },
            'factor=16.0',
        ),
        ({'model_type': 'bloom', 'n_head': 8}, 'a bloom model'),
    ],
)
def test_what_metas_layout_cannot_say_is_refused(tmp_path, config, message):
    source = from_meta(llama2(tmp_path / 'meta'), tmp_path / 'hf')
    values = json.loads((source / 'config.json').read_text()) | config
    del values['rope_parameters']
    other = huggingface.architecture_from_config(values)
    model = dataclasses.replace(huggingface.open(source), architecture=other)
    with pytest.raises(ValueError, match=message):
        meta.write(model, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(('count', 'what'), [(3, 'query'), (8, 'key-value'), (0, 'query')])
def test_shards_that_share_no_heads_are_refused(tmp_path, count, what):
    source = from_meta(llama2(tmp_path / 'meta'), tmp_path / 'hf')
    with pytest.raises(ValueError, match=f'^{count} files .* {what} heads .* --shards'):
        to_meta(source, tmp_path / 'out', count)


def test_what_metas_layout_leaves_out_is_told(tmp_path, capsys):
    source = from_meta(llama2(tmp_path / 'meta'), tmp_path / 'hf', max_position=777)
    assert 'Context: 777 tokens (--max_position)' in capsys.readouterr().out
    (source / 'tokenizer.model').unlink()
    to_meta(source, tmp_path / 'out')
    said = capsys.readouterr().out
    assert 'has no tokenizer.model' in said
    assert '--max_position=777, or 4096 is taken (Llama 2, by bfloat16)' in said


@pytest.mark.parametrize('code', [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_full_or_read_only_disk_leaves_nothing(tmp_path, monkeypatch, code):
    source = llama2(tmp_path / 'meta')
    good = from_meta(source, tmp_path / 'hf')

    def fail(path, *_):
        (path if path.is_dir() else path.parent).joinpath('part').write_bytes(b'some')
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(shards, 'write', fail)
    monkeypatch.setattr(torch_files, 'write', fail)
    for work, folder in ((from_meta, source), (to_meta, good)):
        with pytest.raises(OSError, match='out is full|out cannot be written') as error:
            work(folder, tmp_path / 'out')
        assert '\n' not in str(error.value)
        assert sorted(p.name for p in tmp_path.iterdir()) == ['hf', 'meta']
        with pytest.raises(ValueError, match='there already and not empty'):
            work(folder, good)


class Touch:
    """Touches a file when a pickle is run."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f'touch {self.path}',)


def test_the_programs_run_no_code_of_a_pickle_and_fail_with_one_sentence(tmp_path):
    def program(name, *flags):
        command = [sys.executable, '-m', f'convert.{name}', *flags]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    whole = weights('float16')
    source = publish(tmp_path / 'm', [whole], PARAMS, sentencepiece())
    hf, back, mark = tmp_path / 'hf', tmp_path / 'back', tmp_path / 'mark'
    done = program('from_meta', f'--source={source}', f'--target={hf}', '--max_shard_size=50KB')
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, str(hf)), done.stderr
    assert len(list(hf.glob('*.safetensors'))) > 1
    done = program('to_meta', f'--source={hf}', f'--target={back}', '--shards=2')
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, str(back)), done.stderr
    check_files(back, cut(whole, 2, 1))
    torch.save(whole | {'norm.weight': Touch(mark)}, source / 'consolidated.00.pth')
    done = program('from_meta', f'--source={source}', f'--target={tmp_path / "evil"}')
    assert (done.returncode, done.stdout, done.stderr.count('\n')) == (1, '', 1)
    assert done.stderr.startswith(f'convert.from_meta: {source / "consolidated.00.pth"} cannot be')
    assert 'posix.system, which is not part of a dict of tensors and was not run' in done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == ['back', 'hf', 'm']
