"""A run that trains adapters: what it leaves, how it goes on, and what is made of it."""

import dataclasses
import json
import shutil
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import as_gptq
import belle_jax
import tiny
import training_runs
from belle_jax import config, models
from belle_jax.decoding import perplexity
from belle_jax.families import LowRank, adapter_maps
from belle_jax.families.low_rank import PUBLISHED
from belle_jax.families.packing import NF4
from belle_jax.formats import huggingface, peft
from belle_jax.judging import answering, questions
from belle_jax.runs import adapter_files
from belle_jax.runs.conversion import to_huggingface
from belle_jax.runs.load import load_model, read_architecture
from belle_jax.runs.parameters import Arrays
from belle_jax.runs.run_directory import open_checkpoint
from belle_jax.training.loop import Trainer
from loaded import load_parameters

TOKENS = np.random.default_rng(1).integers(3, 250, (2, 16))
STEPS = 4


def settings(folder, family='llama', **adapter) -> config.Run:
    """Four steps beside a tiny model, packed, in two micro-batches, with dropout."""
    c: Any = config.default()
    c.model.update(source=str(folder / family), scan=True)
    c.data.update(path=str(folder / 'a.jsonl'), template='belle', seq_len=48)
    c.data.cache_dir = str(folder / 'cache')
    c.batch.update(size=16, accumulation=2)
    c.optim.update(learning_rate=3e-3)
    c.adapter.update(**{'rank': 4, 'alpha': 8.0, 'dropout': 0.1} | adapter)
    c.train.update(steps=STEPS, checkpoint_every=2, eval_every=-1)
    return config.resolve(c)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Bases of both families, rows, and a run of four steps."""
    folder = tmp_path_factory.mktemp('adapters')
    for family in ('llama', 'bloom'):
        tiny.write_model(folder / family, family=family)
    training_runs.make_data(folder)
    Trainer(settings(folder), folder / 'run').train()
    return folder


def logits(*args, **kwargs):
    return np.asarray(load_model(*args, **kwargs)(TOKENS))


def test_only_the_adapter_is_saved_and_the_run_speaks_with_its_base(folder):
    checkpoint = open_checkpoint(folder / 'run')
    shapes = Arrays(checkpoint).shapes
    assert shapes and all('.adapter.' in name for name in shapes)
    assert not (folder / 'run' / 'frozen').exists()
    spoken = logits(folder / 'run')
    assert np.abs(spoken - logits(folder / 'llama')).max() > 0.01
    np.testing.assert_array_equal(logits(folder / 'llama', adapter=folder / 'run'), spoken)


def test_beside_its_base_an_adapter_is_measured_and_answers_as_its_run_does(folder, tmp_path):
    (tmp_path / 'text.txt').write_text('天地玄黄 宇宙洪荒 ' * 20, 'utf-8')
    base, run = str(folder / 'llama'), str(folder / 'run')
    places = {'beside': (base, {'adapter': run}), 'run': (run, {}), 'base': (base, {})}
    losses, answers = {}, {}
    asked = [questions.Question(0, '倒写天地', '', 'rewrite')]
    for name, (model, adapter) in places.items():
        (found,) = perplexity.of_texts(model, [str(tmp_path / 'text.txt')], 32, **adapter)
        losses[name] = found['loss']
        spoken = {'template': 'belle', 'options': {'max_new_tokens': 8}}
        answering.from_model(asked, tmp_path / name, model=model, **spoken, **adapter)
        answers[name] = json.loads((tmp_path / name).read_text('utf-8').splitlines()[-1])['output']
    assert losses['beside'] == losses['run'] != losses['base']
    assert answers['beside'] == answers['run'] != answers['base']


def test_what_is_frozen_stays_to_the_byte_and_has_no_moments(folder, tmp_path):
    run = dataclasses.replace(
        settings(folder), train=dataclasses.replace(settings(folder).train, steps=1)
    )
    trainer = Trainer(run, tmp_path / 'run')
    before = {n: np.asarray(p).tobytes() for n, p in trainer.state.frozen.items()}
    own = huggingface.open(folder / 'llama')
    assert before.keys() == own.shapes.keys()
    for name, numbers in before.items():
        whole = tuple(slice(0, n) for n in own.shapes[name])
        assert numbers == own.read(name, whole, own.dtype_of(name)).tobytes()
    trainer.train()
    assert before == {n: np.asarray(p).tobytes() for n, p in trainer.state.frozen.items()}
    entries = sum(leaf.size for leaf in jax.tree.leaves(trainer.state.optimiser))
    assert entries < 2.1 * sum(p.size for p in trainer.state.trainable.values())


@pytest.mark.parametrize('how', ['again', '2x2x2'])
def test_stopped_and_continued_it_ends_the_same(folder, tmp_path, how):
    run = settings(folder)
    half = dataclasses.replace(run, train=dataclasses.replace(run.train, max_steps=2))
    Trainer(half, tmp_path / 'run').train()
    mesh = config.Mesh(2, 2, 2) if how == '2x2x2' else run.mesh
    Trainer(dataclasses.replace(run, mesh=mesh), tmp_path / 'run').train()
    ends = training_runs.parameters(tmp_path / 'run'), training_runs.parameters(folder / 'run')
    for name in ends[1]:
        if how == 'again':
            np.testing.assert_array_equal(ends[0][name], ends[1][name])
        else:  # Adam divides by roots of small sums
            np.testing.assert_allclose(ends[0][name], ends[1][name], atol=2e-3)


def rounded(source, target, frozen):
    """The same model with the products of its layers rounded, by the definitions in NumPy."""
    shutil.copytree(source, target)
    tensors = load_file(source / 'model.safetensors')
    for name, weight in tensors.items():  # [outputs, inputs]
        if weight.ndim != 2 or 'embed' in name or name == 'lm_head.weight':
            continue
        for row in weight:
            size = 64 if frozen == 'nf4' else len(row)
            for group in np.split(row, range(size, len(row), size)):
                largest = np.abs(group).max()
                scale = np.float32(np.float16(largest / (1 if frozen == 'nf4' else 127)))
                levels = np.asarray(NF4) if frozen == 'nf4' else np.arange(-127.0, 128)
                nearest = np.abs(group[:, None] / scale - levels).argmin(1)
                group[:] = levels[nearest] * scale
    save_file(tensors, target / 'model.safetensors', {'format': 'pt'})


@pytest.mark.parametrize(('family', 'frozen'), [('llama', 'nf4'), ('bloom', 'int8')])
def test_beside_a_rounded_base_it_learns_what_it_learns_beside_the_rounded_weights(
    folder, tmp_path, family, frozen
):
    rounded(folder / family, tmp_path / family, frozen)
    run = settings(folder, family, targets='attention.*')
    asked = {'sample_prompts': str(tmp_path / 'asked.jsonl'), 'sample_tokens': 4}
    (tmp_path / 'asked.jsonl').write_text('{"prompt": "1+1"}')
    held = dataclasses.replace(
        run,
        model=dataclasses.replace(run.model, frozen=frozen),
        train=dataclasses.replace(run.train, **asked),
    )
    float_source = dataclasses.replace(run.model, source=str(tmp_path / family))
    trainer = Trainer(held, tmp_path / 'packed')
    words = [p for n, p in trainer.state.frozen.items() if n.endswith('.words')]
    assert words and not any(n.endswith('.kernel') for n in trainer.state.frozen)
    trainer.train()
    said = json.loads((tmp_path / 'packed/samples/samples.jsonl').read_text().splitlines()[-1])
    spoken = belle_jax.generate(belle_jax.load(tmp_path / 'packed'), ['1+1'], max_new_tokens=4)
    assert said['output'] == spoken[0].text
    Trainer(dataclasses.replace(run, model=float_source), tmp_path / 'float').train()
    ends = [training_runs.parameters(tmp_path / name) for name in ('packed', 'float')]
    for name, value in ends[1].items():
        np.testing.assert_allclose(ends[0][name], value, atol=1e-4, err_msg=name)
    spoken = logits(tmp_path / 'packed')
    np.testing.assert_allclose(spoken, logits(tmp_path / 'float'), atol=1e-4 * np.abs(spoken).max())
    to_huggingface(tmp_path / 'packed', tmp_path / 'merged', merge=True)  # into the float weights
    of_base = logits(folder / family, adapter=tmp_path / 'packed')
    np.testing.assert_allclose(logits(tmp_path / 'merged'), of_base, atol=1e-4)


def test_beside_gptq_codes_it_learns_what_it_learns_beside_their_weights(folder, tmp_path):
    plan = as_gptq.Plan(bits=3, symmetric=False, act_order=True)
    places = as_gptq.publish(tmp_path, as_gptq.LLAMA, plan)
    ends = []
    for place in places:
        run = settings(folder, targets='mlp.*', dora=True)
        data = dataclasses.replace(run.data, tokenizer=str(folder / 'llama'))
        model = dataclasses.replace(run.model, source=str(place))
        workdir = tmp_path / f'run-{place.name}'
        parts = {'data': data, 'model': model, 'mesh': config.Mesh(2, 4, 1)}
        Trainer(dataclasses.replace(run, **parts), workdir).train()
        ends.append((training_runs.parameters(workdir), logits(workdir)))
    for name, value in ends[1][0].items():
        np.testing.assert_allclose(ends[0][0][name], value, atol=1e-4, err_msg=name)
    np.testing.assert_allclose(ends[0][1], ends[1][1], atol=1e-4 * np.abs(ends[1][1]).max())
    with pytest.raises(ValueError, match='base of the adapter is quantised'):
        to_huggingface(tmp_path / f'run-{places[0].name}', tmp_path / 'merged', merge=True)


@pytest.mark.parametrize(('inputs', 'outputs'), [(8, 32), (32, 96), (32, 128), (48, 512)])
def test_magnitudes_begin_as_the_norms_of_the_weights(inputs, outputs):
    architecture = dataclasses.replace(tiny.BLOOM, embed=inputs, mlp=outputs)
    adapter = LowRank(4, 16.0, ('mlp.up', 'mlp.down'), dora=True)
    blueprint = models.Blueprint(architecture, (), None, adapter)
    base = models.initialise(blueprint, jax.random.key(0))
    for seed in range(3):
        made = models.initialise_adapter(blueprint, jax.random.key(seed), base)
        for name in adapter.targets:
            kernel = np.float64(base[f'blocks.0.{name}.kernel'])
            norms = np.sqrt((kernel**2).sum(1))
            found = made[f'blocks.0.{name}.adapter.magnitude']
            np.testing.assert_allclose(found, norms, rtol=1e-5)


def test_it_is_exported_as_peft_merged_and_taken_up_again(folder, tmp_path, capsys):
    run, spoken = settings(folder), logits(folder / 'run')
    to_huggingface(folder / 'run', tmp_path / 'peft')
    names = {p.name for p in (tmp_path / 'peft').iterdir()}
    assert {'adapter_config.json', 'adapter_model.safetensors', 'tokenizer.json'} <= names
    np.testing.assert_array_equal(logits(folder / 'llama', adapter=tmp_path / 'peft'), spoken)
    to_huggingface(folder / 'run', tmp_path / 'merged', merge=True)
    np.testing.assert_allclose(logits(tmp_path / 'merged'), spoken, atol=1e-4)
    stage = dataclasses.replace(run, model=config.Model(source=str(folder / 'run')))
    held, merged = (
        Trainer(stage, tmp_path / 'next').state.frozen,
        load_parameters(tmp_path / 'merged'),
    )
    for name, value in held.items():  # the next stage begins with what this one has come to
        np.testing.assert_array_equal(value, merged[name])
    adapter_files.merge([(str(tmp_path / 'peft'), 1.0)], '', tmp_path / 'again')
    np.testing.assert_array_equal(logits(tmp_path / 'again'), logits(tmp_path / 'merged'))
    adapter_files.from_peft(tmp_path / 'peft', '', tmp_path / 'on')
    np.testing.assert_array_equal(logits(tmp_path / 'on'), spoken)
    with pytest.raises(ValueError, match='another --config.adapter'):
        Trainer(settings(folder, alpha=9.0), tmp_path / 'on')
    plain = dataclasses.replace(run, adapter=config.Adapter())  # goes on with what is there
    trainer = Trainer(plain, tmp_path / 'on')
    start = training_runs.parameters(tmp_path / 'on')
    for name, value in trainer.state.trainable.items():
        np.testing.assert_array_equal(np.asarray(value), start[name])
    trainer.train()


def test_a_base_that_has_moved_or_changed_is_told(folder, tmp_path):
    shutil.copytree(folder / 'run', tmp_path / 'run')
    path = tmp_path / 'run' / 'config.json'
    said = json.loads(path.read_text())

    def based_on(place):
        path.write_text(json.dumps(said | {'model': said['model'] | {'source': str(place)}}))

    shutil.copytree(folder / 'llama', tmp_path / 'moved')
    based_on(tmp_path / 'moved')
    np.testing.assert_array_equal(logits(tmp_path / 'run'), logits(folder / 'run'))
    based_on(tmp_path / 'gone')
    with pytest.raises(ValueError, match='trained beside, and cannot be read'):
        load_model(tmp_path / 'run')
    tiny.write_model(tmp_path / 'other', seed=5)
    based_on(tmp_path / 'other')
    with pytest.raises(ValueError, match='has other numbers than the model'):
        load_model(tmp_path / 'run')
    with pytest.raises(ValueError, match='another --config.model.source'):
        Trainer(
            dataclasses.replace(
                settings(folder), model=config.Model(source=str(tmp_path / 'other'))
            ),
            tmp_path / 'run',
        )


def test_what_cannot_be_trained_beside_is_refused(folder, tmp_path):
    def refused(match, train=None, **adapter):
        run = settings(folder, **adapter)
        run = dataclasses.replace(run, train=dataclasses.replace(run.train, **train or {}))
        with pytest.raises(ValueError, match=match):
            Trainer(run, tmp_path / 'run')

    refused("'q_projj' matches no product .* nearest is q_proj", targets='q_projj')
    refused("adapter.also: 'lm_head' matches no parameter", also='lm_head')
    refused('names a part of some layers alone', also='layers.-1.attention_norm')
    refused('rows_from=9 is set and no table is trained', train={'rows_from': 9})
    refused('rows_from=9999 leaves nothing', train={'rows_from': 9999}, also='embed,head')
    c: Any = config.default()
    c.model.source = str(folder / 'llama')
    for section, fields, match in (
        ('adapter', {'targets': 'query'}, 'adapter.rank is 0: there is no adapter'),
        ('adapter', {'rank': 4, 'dropout': 1.0}, 'dropout'),
        ('train', {'freeze': 'layers.0'}, 'train.freeze=.* is set beside an adapter'),
        ('train', {'only': 'layers.0', 'freeze': ''}, 'train.only=.* is set beside an adapter'),
    ):
        c[section].update(fields)
        with pytest.raises(ValueError, match=match):
            config.resolve(c)
        c.adapter.update(rank=4, dropout=0.0)


def test_files_that_are_no_adapter_of_a_model_are_refused(folder, tmp_path):
    to_huggingface(folder / 'run', tmp_path / 'peft')
    path, file = tmp_path / 'peft/adapter_config.json', tmp_path / 'peft/adapter_model.safetensors'
    with pytest.raises(ValueError, match='of another model'):
        load_model(folder / 'bloom', adapter=tmp_path / 'peft')
    with pytest.raises(ValueError, match='is an adapter of'):
        load_model(tmp_path / 'peft')
    with pytest.raises(ValueError, match='has an adapter of its own'):
        load_model(folder / 'run', adapter=tmp_path / 'peft')
    with pytest.raises(ValueError, match='is no adapter'):
        adapter_files.merge([(str(folder / 'llama'), 1.0)], '', tmp_path / 'merged')
    said, tensors = json.loads(path.read_text()), load_file(file)
    name = min(tensors)
    for fields, arrays, match in (
        ({'r': 0}, {}, 'r=0 must be a whole number above 0'),
        ({'r': 4.5}, {}, 'r=4.5 must be a whole number'),
        ({'r': 8}, {}, 'ask for'),
        ({'peft_type': 'IA3'}, {}, 'of kind LORA'),
        ({'bias': 'all'}, {}, 'only none is read'),
        ({'init_lora_weights': 'pissa_niter_4'}, {}, 'changes the base too'),
        ({'layer_replication': [[0, 1]]}, {}, 'layer_replication is set'),
        ({}, {name: np.full_like(tensors[name], np.nan)}, 'not finite'),
        ({}, {f'{PUBLISHED}lm_head.lora_A.weight': tensors[name]}, 'adapts a table'),
    ):
        path.write_text(json.dumps(said | fields))
        save_file(tensors | arrays, file)
        with pytest.raises(ValueError, match=match):
            load_model(folder / 'llama', adapter=tmp_path / 'peft')


def test_tables_of_a_tied_model_are_one_or_refused(folder, tmp_path):
    architecture = read_architecture(folder / 'bloom')
    table = np.random.default_rng(0).normal(size=(architecture.padded_vocab, 64)).astype('f4')
    table[architecture.vocab_size :] = 0
    adapter = LowRank(2, 1.0, ('attention.qkv',))
    maps = {m.ours: np.zeros(m.our_shape, 'f4') for m in adapter_maps(architecture, adapter)}
    own = peft.PeftAdapter(adapter, maps | {'embed.table': table})
    peft.write(own, architecture, tmp_path / 'peft', 'base')
    again = peft.open(tmp_path / 'peft', architecture)
    np.testing.assert_array_equal(again.arrays['embed.table'], table)
    file = tmp_path / 'peft/adapter_model.safetensors'
    tensors = load_file(file)
    save_file({n: t for n, t in tensors.items() if 'lm_head' not in n}, file)  # as peft's, alone
    with pytest.raises(ValueError, match='trained apart from the output table'):
        peft.open(tmp_path / 'peft', architecture)


def test_a_sum_that_does_not_fit_the_weights_dtype_is_refused(folder, tmp_path):
    to_huggingface(folder / 'run', tmp_path / 'peft')
    file = tmp_path / 'peft/adapter_model.safetensors'
    save_file({n: t * 1e4 for n, t in load_file(file).items()}, file)
    with pytest.raises(ValueError, match='float16'):
        adapter_files.merge([(str(tmp_path / 'peft'), 1.0)], '', tmp_path / 'half', 'float16')
    assert not (tmp_path / 'half').exists()
