"""Published models into runs and back, and runs that are damaged, refused or out of room."""

import dataclasses
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import pre_tokenizers

import belle_jax
from belle_jax import config, families, models, sharding
from belle_jax.data import tokenizer
from belle_jax.families import HEAD, Architecture, Rope
from belle_jax.formats import huggingface
from belle_jax.runs import conversion, run_directory
from belle_jax.runs.checkpoints import Checkpoints
from belle_jax.runs.run_directory import open_checkpoint
from belle_jax.weights import shards
from belle_jax.weights.tensors import DTYPES, planned
from loaded import load_parameters

ROOT = Path(__file__).resolve().parents[2]
RNG = np.random.default_rng(8)
LLAMA = Architecture(
    vocab_size=203,
    embed=48,
    layers=3,
    q_heads=4,
    kv_heads=2,
    head_dim=16,
    mlp=80,
    attention_bias=True,
    mlp_bias=True,
    rope=Rope('linear', 7e3, 2.0),
    bos_id=1,
    eos_ids=(2,),
)
BLOOM = Architecture(
    family='bloom',
    vocab_size=131,
    embed=56,
    layers=2,
    q_heads=14,
    tied=True,
    bos_id=1,
    eos_ids=(2,),
    pad_id=3,
)
FAMILIES = {'llama': LLAMA, 'bloom': BLOOM}


def publish(path, architecture, dtype='float32', kind='safetensors', scale=0.1) -> dict:
    """A published directory of random weights; returns its tensors by name."""
    path.mkdir(parents=True)
    arrays = {
        name: (scale * RNG.normal(size=e.their_shape)).astype(DTYPES[dtype])
        for e in families.tensor_maps(architecture)
        for name in e.their_names
    }
    shards.write(path, [planned(n, a) for n, a in arrays.items()], kind, 100_000)
    values = huggingface.architecture_to_hf_config(architecture, dtype)
    values['_name_or_path'] = 'someone/original'  # a key that nothing here knows
    (path / 'config.json').write_text(json.dumps(values))
    (path / 'generation_config.json').write_text('{"eos_token_id": 2, "temperature": 0.35}')
    return arrays


def check_equal(directory, arrays):
    stored = shards.read(directory)
    assert stored.keys() == arrays.keys()
    for name, array in arrays.items():
        assert stored[name].array.dtype == array.dtype, name
        assert stored[name].array.shape == array.shape, name
        assert stored[name].array.tobytes() == array.tobytes(), name


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('kind', shards.KINDS)
def test_from_hf_then_to_hf_gives_every_bit_back(tmp_path, family, dtype, kind):
    source, run = tmp_path / 'source', tmp_path / 'run'
    arrays = publish(source, FAMILIES[family], dtype, kind)
    conversion.from_published(str(source), run, 'float32' if kind == 'bin' else 'source')
    target = conversion.to_huggingface(run, tmp_path / 'target', max_shard_size=60_000, kind=kind)
    assert len(list(target.glob(f'*.{kind}'))) > 2
    check_equal(target, arrays)
    for name in ('config.json', 'generation_config.json'):
        assert json.loads((target / name).read_text()) == json.loads((source / name).read_text())


@pytest.mark.parametrize('dtype', ['float32', 'source'])
def test_each_tensor_comes_back_in_its_own_dtype(tmp_path, dtype):
    source, run = tmp_path / 'source', tmp_path / 'run'
    arrays = publish(source, LLAMA, 'bfloat16')
    for name in arrays:
        if 'norm' in name:
            arrays[name] = RNG.normal(size=arrays[name].shape).astype(np.float32)
    shards.write(source, [planned(n, a) for n, a in arrays.items()], 'safetensors', 10**9)
    for part in source.glob('model-*'):
        part.unlink()
    (source / 'model.safetensors.index.json').unlink()
    conversion.from_published(str(source), run, dtype)
    check_equal(conversion.to_huggingface(run, tmp_path / 'target'), arrays)


def test_places_may_be_named_from_beside(tmp_path, monkeypatch):
    (tmp_path / 'here').mkdir()
    monkeypatch.chdir(tmp_path / 'here')
    arrays = publish(tmp_path / 'source', LLAMA)
    run = conversion.from_published('../source', Path('../run'))
    assert belle_jax.load_model('../run').architecture == LLAMA
    check_equal(conversion.to_huggingface(run, '../here/../target'), arrays)


def test_an_index_may_list_the_head_that_a_tied_model_rightly_lacks(tmp_path):
    source = tmp_path / 'source'
    publish(source, BLOOM)
    index = next(source.glob('*.index.json'))
    values = json.loads(index.read_text())
    first = next(iter(values['weight_map'].values()))
    index.write_text(json.dumps(values | {'weight_map': values['weight_map'] | {HEAD: first}}))
    assert belle_jax.load_model(source).architecture == BLOOM


def saved_run(path, architecture, steps=(1, 2), **config_fields) -> dict[int, dict]:
    """A run directory as training leaves it; returns the parameters of each step."""
    path.mkdir(parents=True)
    run = config.Run(
        model=config.Model(architecture=architecture), data=config.Data(template='none')
    )
    config.save(dataclasses.replace(run, **config_fields), path / 'config.json')
    checkpoints = Checkpoints(path / 'checkpoints', keep_last=9)
    saved = {}
    for step in steps:
        saved[step] = {
            e.ours: jnp.asarray(0.1 * RNG.normal(size=e.our_shape), jnp.float32)
            for e in families.tensor_maps(architecture)
        }
        for name in {'embed.table', 'head.table'} & saved[step].keys():
            saved[step][name] = saved[step][name].at[architecture.vocab_size :].set(0)
        moments = jax.tree.map(jnp.zeros_like, saved[step])
        checkpoints.save(step, saved[step], {'mu': moments, 'count': jnp.int32(step)}, {})
    checkpoints.close()
    return saved


def equal(model, params) -> bool:
    ours = models.parameters(model)
    return ours.keys() == params.keys() and all(np.array_equal(ours[n], params[n]) for n in ours)


def test_a_run_is_loaded_from_its_newest_checkpoint_or_the_one_named(tmp_path):
    saved = saved_run(tmp_path / 'run', LLAMA)
    assert equal(belle_jax.load_model(tmp_path / 'run'), saved[2])
    assert equal(belle_jax.load_model(str(tmp_path / 'run' / 'checkpoints' / '1')), saved[1])
    assert belle_jax.load_model(tmp_path / 'run').architecture == LLAMA


def test_an_export_of_a_run_loads_as_the_same_model(tmp_path):
    saved = saved_run(tmp_path / 'run', BLOOM)
    for source, step in (('run', 2), ('run/checkpoints/1', 1)):
        target = conversion.to_huggingface(tmp_path / source, tmp_path / f'out{step}')
        model = belle_jax.load_model(target)
        assert model.architecture == BLOOM
        assert equal(model, saved[step])
        assert not any('lm_head' in name for name in shards.read(target))  # tied


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def largest(step: Path) -> Path:
    return max((p for p in step.rglob('*') if p.is_file()), key=lambda p: p.stat().st_size)


@pytest.mark.parametrize('damage', ['flip', 'truncate', 'missing', 'extra', 'no manifest', 'torn'])
def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_is_used(
    tmp_path, damage, capsys, caplog
):
    run = tmp_path / 'run'
    saved = saved_run(run, LLAMA)
    step = run / 'checkpoints' / '2'
    file, record = largest(step), run_directory.manifest_of(step)
    expected = str(file)
    if damage == 'flip':
        flip(file)
    elif damage == 'truncate':
        os.truncate(file, file.stat().st_size - 1)
    elif damage == 'missing':
        file.unlink()
    elif damage == 'extra':
        expected = str(step / 'new')
        (step / 'new').write_text('')
    elif damage == 'no manifest':
        expected = record.name
        record.unlink()
    else:
        expected = str(record)
        os.truncate(record, 100)
    found = open_checkpoint(run)
    assert found.step == 1
    assert len(found.rejected) == 1
    assert expected in found.rejected[0]
    with caplog.at_level('WARNING', 'absl'):
        assert equal(belle_jax.load_model(run), saved[1])
    assert expected in caplog.text
    conversion.to_huggingface(run, tmp_path / 'out')
    assert expected in capsys.readouterr().out
    with pytest.raises(ValueError, match='no checkpoint that can be used') as error:
        belle_jax.load_model(step)
    assert expected in str(error.value)


def test_every_flipped_byte_of_a_checkpoint_is_noticed(tmp_path):
    step = tmp_path / '7'
    (step / 'a').mkdir(parents=True)
    (step / 'a' / 'b').write_bytes(RNG.bytes(40))
    (step / 'c').write_bytes(b'')
    run_directory.write_manifest(step)
    run_directory.verify(step)
    assert json.loads(run_directory.manifest_of(step).read_text())['step'] == 7
    whole = (step / 'a' / 'b').read_bytes()
    for place in range(40):
        for bit in range(8):
            damaged = bytearray(whole)
            damaged[place] ^= 1 << bit
            (step / 'a' / 'b').write_bytes(damaged)
            with pytest.raises(ValueError, match='a/b is damaged'):
                run_directory.verify(step)


@pytest.mark.parametrize('kind', ['published', 'run'])
@pytest.mark.parametrize('shape', [(8, 1, 1), (1, 4, 2), (2, 2, 2)])
def test_each_shard_reads_its_slices_on_any_mesh(tmp_path, kind, shape):
    path = tmp_path / 'm'
    if kind == 'run':
        saved_run(path, LLAMA, steps=(1,))
    else:
        publish(path, LLAMA)
    expected = load_parameters(path)
    mesh = sharding.make_mesh(config.Mesh(*shape))
    shardings = sharding.of_parameters(mesh, models.specs(models.Blueprint(LLAMA)))
    placed = load_parameters(path, LLAMA, shardings)
    for name, array in placed.items():
        assert array.sharding == shardings[name]
        assert np.array_equal(array, expected[name]), name


def test_a_model_on_a_mesh_says_what_it_says_on_one_device(tmp_path):
    publish(tmp_path / 'm', LLAMA)
    mesh = sharding.make_mesh(config.Mesh(2, 2, 2))
    model = belle_jax.load_model(tmp_path / 'm', mesh=mesh)
    tokens = jnp.asarray(RNG.integers(0, 203, (8, 5)))
    with jax.set_mesh(mesh):
        logits = model(tokens)
    assert np.allclose(logits, belle_jax.load_model(tmp_path / 'm')(tokens), atol=1e-5)


def test_loading_as_bfloat16_rounds_the_published_numbers(tmp_path):
    publish(tmp_path / 'm', LLAMA)
    exact, rounded = (
        load_parameters(tmp_path / 'm'),
        load_parameters(tmp_path / 'm', dtype='bfloat16'),
    )
    assert all(np.array_equal(exact[n].astype(DTYPES['bfloat16']), rounded[n]) for n in exact)
    model = belle_jax.load_model(tmp_path / 'm', dtype='bfloat16')
    assert {a.dtype for a in models.parameters(model).values()} == {jnp.dtype('bfloat16')}
    with pytest.raises(ValueError, match="dtype='float16'"):
        belle_jax.load_model(tmp_path / 'm', dtype='float16')


def test_an_export_rounds_to_the_dtype_asked_for_and_says_so_in_its_configuration(tmp_path):
    arrays = publish(tmp_path / 'm', LLAMA)
    conversion.from_published(str(tmp_path / 'm'), tmp_path / 'run')
    target = conversion.to_huggingface(tmp_path / 'run', tmp_path / 'out', 'bfloat16')
    check_equal(target, {n: a.astype(DTYPES['bfloat16']) for n, a in arrays.items()})
    values = json.loads((target / 'config.json').read_text())
    assert values['dtype'] == values['torch_dtype'] == 'bfloat16'


def test_numbers_that_float16_cannot_hold_are_refused_with_their_tensor(tmp_path):
    publish(tmp_path / 'm', LLAMA, scale=1e5)
    conversion.from_published(str(tmp_path / 'm'), tmp_path / 'run')
    with pytest.raises(ValueError, match=r'embed_tokens.weight .*--dtype=bfloat16'):
        conversion.to_huggingface(tmp_path / 'run', tmp_path / 'out', 'float16')
    assert sorted(p.name for p in tmp_path.iterdir()) == ['m', 'run']


def test_the_small_files_of_the_source_come_back_as_they_were(tmp_path, shared):
    source = tmp_path / 'source'
    architecture = dataclasses.replace(LLAMA, vocab_size=6400)
    publish(source, architecture)
    for file in (shared / 'data' / 'tokenizers' / 'zh_bpe_6400').iterdir():
        shutil.copyfile(file, source / file.name)
    (source / 'README.md').write_text('---\nlicense: bigscience-bloom-rail-1.0\n---\nBase')
    (source / 'LICENSE').write_text('terms')
    conversion.from_published(str(source), tmp_path / 'run')
    target = conversion.to_huggingface(tmp_path / 'run', tmp_path / 'out')
    for name in ('tokenizer.json', 'tokenizer_config.json', 'LICENSE', 'generation_config.json'):
        assert (target / name).read_bytes() == (source / name).read_bytes()
    card = (target / 'README.md').read_text()
    assert card.startswith('---\nlibrary_name: transformers\n')
    assert 'license: bigscience-bloom-rail-1.0\n' in card
    assert 'Base model: `source`' in card
    assert str(tmp_path) not in card


def test_a_model_card_states_data_training_template_and_evaluation(tmp_path):
    run = tmp_path / 'sft'
    saved_run(run, LLAMA, steps=(5,), optim=config.Optim(learning_rate=3e-6), seed=17)
    account = {'sources': [{'path': 'belle.json', 'kept': 12_345, 'dropped': {'empty': 2}}]}
    (run / 'data.json').write_text(json.dumps(account))
    (run / 'metrics').mkdir()
    rows = [
        {'step': 4, 'loss': 2.5},
        {'step': 5, 'evaluation_loss': 1.25, 'evaluation_perplexity': 3.4903},
        {'step': 6, 'loss': 9.0},  # after the checkpoint
    ]
    text = '\n'.join(map(json.dumps, rows)) + '\n{"step": 7, "lo'
    (run / 'metrics' / 'metrics.jsonl').write_text(text)
    card = (conversion.to_huggingface(run, tmp_path / 'out') / 'README.md').read_text()
    for line in (
        '# sft',
        "path = 'sft'",
        "tokenizer('你好', return_tensors='pt')",
        'Trained from random weights',
        '| belle.json | 0 | 12,345 | 0 | 0 |',
        '<details><summary>All counts</summary>',
        '- kept: 12,345',
        '- empty: 2',
        '| optim.learning_rate | 3e-06 |',
        '| seed | 17 |',
        '| steps | 5 |',
        'Template `none`.',
        '- training loss of the last steps (nats a token): 2.5000',
        '- evaluation loss (nats a token): 1.2500',
        '## Limitations',
        '## Licence',
        'arXiv',
    ):
        assert line in card, line


def test_a_model_card_publishes_no_local_directory(tmp_path):
    run, base = tmp_path / 'sft', tmp_path / 'base'
    data = config.Data(
        path=f'{tmp_path}/a.jsonl=2,Some/Rows:train',
        tokenizer=f'{tmp_path}/words',
        validation=config.Validation(path=f'{tmp_path}/check.jsonl'),
        template='none',
    )
    model = config.Model(source=str(base), architecture=LLAMA)
    saved_run(run, LLAMA, steps=(5,), data=data, model=model)
    described = {'describe': f'{tmp_path}/a.jsonl: JSON lines, alpaca rows, 3 rows', 'kept': 3}
    checked = {'describe': f'{tmp_path}/check.jsonl: JSON lines, alpaca rows, 9 rows'}
    account = {'sources': [{'path': f'{tmp_path}/a.jsonl'} | described], 'validation': [checked]}
    (run / 'data.json').write_text(json.dumps(account))
    card = (conversion.to_huggingface(run, tmp_path / 'out') / 'README.md').read_text()
    assert str(tmp_path) not in card and tmp_path.name not in card
    for line in (
        'Continued from the run `base`, which names no base model.',
        '- path: a.jsonl\n',
        '- describe: a.jsonl: JSON lines, alpaca rows, 3 rows\n',
        '- describe: check.jsonl: JSON lines, alpaca rows, 9 rows',
        '| data.path | a.jsonl=2, Some/Rows:train |',
        '| data.tokenizer | words |',
        '| data.validation | path check.jsonl |',
    ):
        assert line in card, line
    assert 'random weights' not in card


def test_a_kill_while_the_small_files_are_kept_leaves_no_part_of_them(tmp_path, monkeypatch):
    publish(tmp_path / 'm', LLAMA)
    run = tmp_path / 'run'

    def killed(path):
        (partial,) = run.iterdir()
        assert partial.name.startswith('.source.partial')
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(conversion.shards, 'read', killed)
        with pytest.raises(KeyboardInterrupt):
            conversion.keep_origin(tmp_path / 'm', run)
    assert not (run / 'source').exists()
    conversion.keep_origin(tmp_path / 'm', run)
    assert [p.name for p in run.iterdir()] == ['source']
    assert run_directory.read_origin(run)['dtype'] == 'float32'


def test_a_kept_bloom_of_vocab_and_merges_splits_words_as_before(tmp_path):
    publish(tmp_path / 'm', BLOOM)
    words = ['<s>', '</s>', *sorted(pre_tokenizers.ByteLevel.alphabet()), '!.']
    (tmp_path / 'm' / 'vocab.json').write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (tmp_path / 'm' / 'merges.txt').write_text('#version: 0.2\n! .\n')
    conversion.keep_origin(tmp_path / 'm', tmp_path / 'run')
    kept = tokenizer.load(tmp_path / 'run')
    assert kept.fingerprint() == tokenizer.load(tmp_path / 'm').fingerprint()
    assert sorted(p.name for p in (tmp_path / 'run').iterdir()) == ['source', 'tokenizer']


def test_a_target_in_use_is_refused_and_untouched(tmp_path):
    publish(tmp_path / 'm', LLAMA)
    saved_run(tmp_path / 'run', LLAMA, steps=(1,))
    before = sorted(p.name for p in (tmp_path / 'm').iterdir())
    with pytest.raises(ValueError, match='already and not empty'):
        conversion.to_huggingface(tmp_path / 'run', tmp_path / 'm')
    with pytest.raises(ValueError, match='already and not empty'):
        conversion.from_published(str(tmp_path / 'm'), tmp_path / 'run')
    assert sorted(p.name for p in (tmp_path / 'm').iterdir()) == before
    (tmp_path / 'empty').mkdir()
    assert conversion.to_huggingface(tmp_path / 'run', tmp_path / 'empty').is_dir()


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path, monkeypatch):
    saved_run(tmp_path / 'run', LLAMA, steps=(1,))

    def full(directory, *_):
        (directory / 'model.safetensors').write_bytes(b'some')
        raise OSError(errno.ENOSPC, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(shards, 'write', full)
        with pytest.raises(
            OSError, match=r'out is full: .* were to be written.* Make room'
        ) as error:
            conversion.to_huggingface(tmp_path / 'run', tmp_path / 'out')
        assert '\n' not in str(error.value)
    usage = shutil._ntuple_diskusage(10, 5, 5)  # type: ignore[attr-defined]
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage)
    with pytest.raises(OSError, match='free: make room'):
        conversion.to_huggingface(tmp_path / 'run', tmp_path / 'out')
    assert [p.name for p in tmp_path.iterdir()] == ['run']


def test_a_source_that_is_no_run_is_named(tmp_path):
    for name in ('nothing', 'plain'):
        (tmp_path / 'plain').mkdir(exist_ok=True)
        with pytest.raises(ValueError, match=f'{name} is not a run directory'):
            conversion.to_huggingface(tmp_path / name, tmp_path / 'out')


@pytest.mark.parametrize(
    ('source', 'match'),
    [
        ('a=nan,b', '--source=a=nan: nan is no weight: give a finite number'),
        ('a=0.5,b=inf', '--source=b=inf: inf is no weight'),
        ('a,,b', '--source=a,,b has a comma with nothing beside it'),
    ],
)
def test_weights_of_adapters_are_numbers(source, match, tmp_path):
    done = program('convert.adapter', 'to_peft', f'--source={source}', f'--target={tmp_path / "t"}')
    assert (done.returncode, done.stdout) == (1, '') and match in done.stderr
    assert len(done.stderr.splitlines()) == 1 and not (tmp_path / 't').exists()


def program(module, *flags) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, '-m', module, *flags],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_the_programs_convert_and_fail_with_one_sentence(tmp_path):
    arrays = publish(tmp_path / 'm', LLAMA, 'float16')
    run, out = tmp_path / 'run', tmp_path / 'out'
    done = program('convert.from_hf', f'--source={tmp_path / "m"}', f'--target={run}')
    assert (done.returncode, done.stdout) == (0, f'{run}\n'), done.stderr
    flags = (f'--source={run}', f'--target={out}', '--max_shard_size=80KB')
    done = program('convert.to_hf', *flags)
    assert (done.returncode, done.stdout) == (0, f'{out}\n'), done.stderr
    check_equal(out, arrays)
    done = program('convert.to_hf', *flags)
    assert done.returncode == 1
    assert done.stderr.startswith(f'convert.to_hf: --target={out} is there already')
    assert done.stderr.count('\n') == 1
    (tmp_path / 'm' / 'config.json').unlink()
    done = program('convert.from_hf', f'--source={tmp_path / "m"}', f'--target={run}2')
    assert done.returncode == 1
    assert done.stderr.count('\n') == 1
    assert not (tmp_path / 'run2').exists()


def test_an_export_imports_no_jax():
    code = 'import sys, convert.to_hf; sys.exit("jax" in sys.modules or "torch" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=False).returncode == 0


def test_what_a_kill_left_of_checkpoints_is_removed_at_the_next_start(tmp_path):
    saved_run(tmp_path / 'run', LLAMA, steps=(1, 2))
    folder = tmp_path / 'run' / 'checkpoints'
    whole = sorted(path.name for path in folder.iterdir())
    # Killed while one was being written, deleted in two ways, and before its manifest was whole.
    for name in ('0', '3', '.4.deleted', '5.orbax-checkpoint-tmp'):
        shutil.copytree(folder / '1', folder / name)
    for name in ('6.manifest.json', '.7.manifest.json.partial'):
        shutil.copy(folder / '1.manifest.json', folder / name)
    checkpoints = Checkpoints(folder, keep_last=9)
    assert checkpoints.newest() == 2
    checkpoints.close()
    assert sorted(path.name for path in folder.iterdir()) == whole


def test_a_full_disk_and_too_many_files_are_told_with_their_own_remedy(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for code, remedy in ((28, 'intact: make room'), (24, 'intact: raise the limit of open files')):
        assert remedy in str(checkpoints._error(1, OSError(code, os.strerror(code))))
    checkpoints.close()
