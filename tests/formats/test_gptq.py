"""Quantised files: read as they are, written as they were, refused where they would be wrong."""
# pyright: reportArgumentType=false, reportOptionalMemberAccess=false

import dataclasses
import json
import math
import re

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import as_gptq
import belle_jax
from as_gptq import BELLE, BLOOM, FAMILIES, LLAMA, Plan, words
from belle_jax import config, families, models, sharding
from belle_jax.families import PRESETS, Packing
from belle_jax.formats import gptq, huggingface
from belle_jax.formats.gptq import writing, zeros
from belle_jax.formats.protocol import PublishedModel
from belle_jax.runs.load import open_parameters
from belle_jax.weights.tensors import Planned, Stored

TOKENS = np.random.default_rng(3).integers(0, 300, (2, 11))


def values(model):
    """All of our parameters as they are stored, and what says how they are to be taken."""
    whole = {n: tuple(slice(0, s) for s in shape) for n, shape in model.shapes.items()}
    return {n: model.read(n, index, model.dtype_of(n)) for n, index in whole.items()}


def assert_same(one, other):
    assert (one.packing, one.architecture) == (other.packing, other.architecture)
    mine, theirs = values(one), values(other)
    assert mine.keys() == theirs.keys()
    for name, array in mine.items():
        assert array.dtype == theirs[name].dtype or name.endswith('.scales'), name
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)


# --- written and read again -----------------------------------------------------------------------


@pytest.mark.parametrize('layout', gptq.FORMATS)
@pytest.mark.parametrize(
    ('family', 'plan'),
    [
        ('llama', Plan(4, 32)),
        ('bloom', Plan(3, -1, symmetric=False)),
        ('llama', Plan(2, 48, symmetric=False, act_order=True)),
        ('bloom', Plan(8, 64, act_order=True)),
    ],
)
def test_what_is_written_is_what_was_read(tmp_path, family, plan, layout):
    quantised, _ = as_gptq.publish(tmp_path, FAMILIES[family], plan)
    model = gptq.open(quantised)
    if layout == 'belle_pt' and plan.act_order:
        with pytest.raises(ValueError, match=r'no place for an order of inputs: quantise without'):
            gptq.write(model, tmp_path / 'again', layout)
        return
    again = gptq.write(model, tmp_path / 'again', layout)
    bare = next(again.glob('*.pt'), '')
    assert_same(gptq.open(again, bare), model)
    if layout == 'gptq' and plan.version == 1:
        mine, theirs = (
            load_file(again / 'model.safetensors'),
            load_file(quantised / 'model.safetensors'),
        )
        assert mine.keys() == theirs.keys()
        for name, array in mine.items():
            np.testing.assert_array_equal(array, theirs[name], err_msg=name)
            assert array.dtype == theirs[name].dtype


def test_widths_that_fill_no_word_are_whole(tmp_path):
    odd = dataclasses.replace(LLAMA, embed=60, q_heads=3, kv_heads=3, head_dim=20, mlp=44)
    for bits in (2, 3, 4, 8):
        quantised, plain = as_gptq.publish(
            tmp_path / f'{bits}', odd, Plan(bits, 16, symmetric=False)
        )
        model = belle_jax.load_model(quantised)
        np.testing.assert_allclose(model(TOKENS), belle_jax.load_model(plain)(TOKENS), atol=1e-4)
        again = gptq.write(gptq.open(quantised), tmp_path / f'{bits} again')
        assert_same(gptq.open(again), gptq.open(quantised))


def quantised_tables(model, bits):
    """A model with tables of random codes in our notation."""
    packing = dataclasses.replace(model.packing, tables=bits)
    entries = families.packed_maps(families.tensor_maps(model.architecture), packing)
    rng, tensors = np.random.default_rng(0), dict(model.tensors)
    for entry in entries:
        if entry.padded:
            tensors.pop(entry.theirs.replace('qweight', 'weight'), None)
            is_words = entry.theirs.endswith('qweight')
            array = rng.integers(-(2**31), 2**31, entry.their_shape).astype(np.int32)
            array = array if is_words else rng.random(entry.their_shape).astype(np.float16)
            tensors[entry.theirs] = Stored(entry.theirs, model.directory, array)
    return dataclasses.replace(model, tensors=tensors, packing=packing)


@pytest.mark.parametrize('layout', ['gptq', 'gptq_v2', 'compressed_tensors'])
@pytest.mark.parametrize('family', FAMILIES)
def test_tables_in_codes_are_written_and_read(tmp_path, family, layout, capsys):
    quantised, _ = as_gptq.publish(tmp_path, FAMILIES[family], Plan(4, 32))
    model = quantised_tables(gptq.open(quantised), 8)
    again = gptq.write(model, tmp_path / 'again', layout)
    assert ('Belle-JAX alone' in capsys.readouterr().out) == layout.startswith('gptq')
    assert_same(gptq.open(again), model)
    with pytest.raises(
        ValueError, match='no place for quantised tables: quantise without --table_'
    ):
        gptq.write(model, tmp_path / 'bare', 'belle_pt')


@pytest.mark.parametrize('plan', [Plan(3, head_bits=8), Plan(4, symmetric=False, head_bits=4)])
def test_a_head_in_codes_alone_is_that_of_its_weights(tmp_path, plan):
    quantised, plain = as_gptq.publish(tmp_path, LLAMA, plan)
    model = belle_jax.load_model(quantised)
    assert model.blueprint.packing.tables == (plan.head_bits if plan.symmetric else 0)
    # A head with zeros becomes float16 numbers.
    expected = belle_jax.load_model(plain)(TOKENS)
    np.testing.assert_allclose(model(TOKENS), expected, atol=1e-4 if plan.symmetric else 1e-2)


def test_biases_that_are_not_zero_are_the_models(tmp_path):
    biased = dataclasses.replace(LLAMA, attention_bias=True)
    packed, plain = as_gptq.tensors(biased, Plan(biases=True))
    extra = {'quantization_config': as_gptq.settings(Plan())}
    as_gptq.write(tmp_path / 'q', LLAMA, packed, extra)
    model = gptq.open(tmp_path / 'q')
    assert model.architecture == biased
    as_gptq.write(tmp_path / 'p', biased, plain, {})
    expected = belle_jax.load_model(tmp_path / 'p')(TOKENS)
    np.testing.assert_allclose(belle_jax.load_model(tmp_path / 'q')(TOKENS), expected, atol=1e-4)


@pytest.mark.parametrize('bits', [4, 8])
@pytest.mark.parametrize('group', [48, -1])
@pytest.mark.parametrize('symmetric', [True, False])
def test_compressed_tensors_are_the_same_model(tmp_path, bits, group, symmetric):
    plan = Plan(bits, group, symmetric, act_order=group == 48, version=2, g_idx=group == 48)
    packed, _ = as_gptq.tensors(LLAMA, plan)
    extra = {'quantization_config': as_gptq.settings(plan)}
    expected = gptq.open(as_gptq.write(tmp_path / 'gptq', LLAMA, packed, extra))
    theirs = as_gptq.as_compressed(packed)
    if symmetric:
        theirs = {n: a for n, a in theirs.items() if not n.endswith('zero_point')}
    for name in [n for n in theirs if n.endswith('weight_packed')]:
        outputs, inputs = theirs[name].shape[0], theirs[name].shape[1] * 32 // bits
        theirs[name.replace('_packed', '_shape')] = np.array([outputs, inputs])
    extra = {'quantization_config': as_gptq.compressed_settings(plan)}
    assert_same(gptq.open(as_gptq.write(tmp_path / 'c', LLAMA, theirs, extra)), expected)
    again = gptq.write(expected, tmp_path / 'again', 'compressed_tensors')
    mine = load_file(again / 'model.safetensors')
    assert mine.keys() == theirs.keys()
    for name, array in mine.items():
        np.testing.assert_array_equal(array, theirs[name], err_msg=name)
        assert array.dtype == theirs[name].dtype


# --- zero points ----------------------------------------------------------------------------------


def stored(array):
    return Stored('x.qzeros', 'model.safetensors', array)


@pytest.mark.parametrize('bits', [2, 3, 4, 8])
def test_zero_points_of_0_are_right_or_refused(bits):
    rng = np.random.default_rng(bits)
    true = rng.integers(0, 2**bits, (5, 64))
    true[3, 5] = 0
    packed = words(true.T, bits).T.copy()
    np.testing.assert_array_equal(zeros.read(stored(packed), bits, 64, 2, False), true)
    if 32 % bits:  # GPTQModel subtracts from each of them, modulo 8
        minus = words((true.T - 1) % 2**bits, bits).T.copy()
    else:  # from whole words
        ones = np.uint32(sum(1 << s for s in range(0, 32, bits)))
        minus = (packed.view(np.uint32) - ones).view(np.int32)
    np.testing.assert_array_equal(zeros.read(stored(minus), bits, 64, 1, True), true)
    with pytest.raises(ValueError, match=r'x\.qzeros in model.safetensors has zero points of 0'):
        zeros.read(stored(minus), bits, 64, 1, False)


def test_a_zero_point_that_spoils_no_other_is_read():
    true = np.full((1, 16), 5)
    true[0, [7, 15]] = 0
    packed = words((true.T - 1) % 16, 4).T.copy()
    np.testing.assert_array_equal(zeros.read(stored(packed), 4, 16, 1, False), true)


def test_what_a_zero_point_of_0_makes_of_its_neighbours_in_autogptq_is_refused():
    fields = (np.full(8, 5) - 1) | np.array([0, 0, 15, 15, 15, 15, 15, 15])
    with pytest.raises(ValueError, match='Save the model as gptq_v2 with that program'):
        zeros.read(stored(words(fields[:, None], 4).T.copy()), 4, 8, 1, False)


@pytest.mark.parametrize('layout', ['gptq', 'belle_pt'])
def test_a_zero_point_of_0_is_written_to_version_2_alone(tmp_path, layout):
    packed, _ = as_gptq.tensors(BLOOM, Plan(4, symmetric=False, version=2))
    name = next(n for n in packed if n.endswith('qzeros'))
    packed[name] = words(np.zeros((packed[name].shape[1] * 8, 2), int), 4).T.copy()
    extra = {'quantization_config': as_gptq.settings(Plan(4, symmetric=False, version=2))}
    model = gptq.open(as_gptq.write(tmp_path / 'q', BLOOM, packed, extra))
    with pytest.raises(ValueError, match=r'has a zero point of 0.*Choose --format=gptq_v2'):
        gptq.write(model, tmp_path / 'one', layout)
    assert not (tmp_path / 'one').exists()
    assert_same(gptq.open(gptq.write(model, tmp_path / 'two', 'gptq_v2')), model)


# --- what others ask for --------------------------------------------------------------------------


@pytest.mark.parametrize('bits', [4, 8])
@pytest.mark.parametrize('family', FAMILIES)
def test_the_default_export_is_what_vllm_takes(tmp_path, family, bits):
    wide = dataclasses.replace(FAMILIES[family], embed=128, q_heads=4, mlp=512, head_dim=32)
    quantised, _ = as_gptq.publish(tmp_path, wide, Plan(bits, 128))
    out = gptq.write(gptq.open(quantised), tmp_path / 'out', meta={'damp_percent': 0.01})
    said = json.loads((out / 'config.json').read_text())['quantization_config']
    assert said == json.loads((out / 'quantize_config.json').read_text())
    assert (said['quant_method'], said['checkpoint_format'], said['sym']) == ('gptq', 'gptq', True)
    assert said['bits'] in (4, 8) and said['group_size'] in (-1, 32, 64, 128)
    assert not said['desc_act'] and not said['lm_head'] and said['pack_dtype'] == 'int32'
    assert said['meta']['damp_percent'] == 0.01
    assert said['meta']['quantizer'] == [f'belle_jax:{belle_jax.__version__}']
    tensors = load_file(out / 'model.safetensors')
    stems = {n.removesuffix('qweight') for n in tensors if n.endswith('.qweight')}
    assert len(stems) == 2 * (7 if family == 'llama' else 4)
    for stem in stems:
        assert not re.search('embed|lm_head|norm', stem)
        inputs, outputs = (
            tensors[f'{stem}qweight'].shape[0] * 32 // bits,
            tensors[f'{stem}qweight'].shape[1],
        )
        assert inputs % 128 == 0 and outputs % 64 == 0
        assert tensors[f'{stem}scales'].dtype == np.float16
        assert tensors[f'{stem}g_idx'].tolist() == [i // 128 for i in range(inputs)]
        half = 0x77777777 if bits == 4 else 0x7F7F7F7F
        assert (tensors[f'{stem}qzeros'] == half).all()
        assert tensors[f'{stem}qzeros'].shape == (inputs // 128, outputs * bits // 32)
        assert (f'{stem}bias' in tensors) == (family == 'bloom')


def by_shape(preset, layout, bits, tables=0, floats='float32', table_floats='float32'):
    """GiB of a file of a published size, of which no number exists."""
    architecture, packing = PRESETS[preset], Packing(bits, 128, symmetric=False, tables=tables)
    kinds = {'qweight': 'int32', 'scales': 'float16', 'qzeros': 'uint8'}
    tensors = {}
    for entry in families.packed_maps(families.tensor_maps(architecture), packing):
        kind = kinds.get(entry.theirs.rpartition('.')[2], table_floats if entry.padded else floats)
        for name in entry.their_names:
            tensors[name] = Planned(name, entry.their_shape, np.dtype(kind), lambda: iter(()))
    model = PublishedModel(None, architecture, tensors, floats, lambda _: [], packing=packing)
    return sum(t.size for t in writing.exported(model, layout)) / 2**30


def test_published_sizes_are_what_belle_published():
    """BELLE's page says 9.7, 6.9, 6.8 and 3.8."""
    half = {'floats': 'float16', 'table_floats': 'float16'}
    assert by_shape('bloom_7b1', 'belle_pt', 8) == pytest.approx(9.67, abs=0.01)
    assert by_shape('bloom_7b1', 'belle_pt', 4) == pytest.approx(6.84, abs=0.01)
    assert by_shape('llama_7b', 'belle_pt', 8, **half) == pytest.approx(6.76, abs=0.01)
    assert by_shape('llama_7b', 'belle_pt', 4, **half) == pytest.approx(3.72, abs=0.01)


def test_a_table_in_8_bits_makes_a_bloom_7b1_of_4_bits_fit_4_gib():
    assert by_shape('bloom_7b1', 'gptq', 4, tables=8) <= 4.0
    assert by_shape('bloom_7b1', 'gptq', 4) > 6.5


# --- loading --------------------------------------------------------------------------------------


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
@pytest.mark.parametrize('group', [32, 128])
def test_a_4_bit_model_takes_at_most_a_tenth_more_memory_than_its_file(tmp_path, group, dtype):
    wide = dataclasses.replace(LLAMA, embed=256, head_dim=64, mlp=512, layers=4, vocab_size=256)
    quantised, _ = as_gptq.publish(tmp_path, wide, Plan(4, group, symmetric=False))
    arrays = models.parameters(belle_jax.load_model(quantised, dtype))
    size = (quantised / 'model.safetensors').stat().st_size
    assert sum(a.nbytes for a in arrays.values()) <= 1.1 * size
    stored = load_file(quantised / 'model.safetensors')
    name = 'model.layers.1.mlp.up_proj.qweight'
    np.testing.assert_array_equal(arrays['blocks.0.mlp.up.words'][1], stored[name])


@pytest.mark.parametrize('family', FAMILIES)
def test_on_a_mesh_logits_are_one_devices_and_no_device_holds_a_whole_matrix(tmp_path, family):
    quantised, _ = as_gptq.publish(tmp_path, FAMILIES[family], Plan(4, 32, symmetric=False))
    mesh = sharding.make_mesh(config.Mesh(2, 2, 2), jax.devices()[:8])
    whole, spread = belle_jax.load_model(quantised), belle_jax.load_model(quantised, mesh=mesh)
    with jax.set_mesh(mesh):
        logits = jax.jit(lambda model, tokens: model(tokens))(spread, np.tile(TOKENS, (4, 1)))
    np.testing.assert_allclose(logits[:2], whole(TOKENS), atol=1e-4)
    for name, array in models.parameters(spread).items():
        if name.endswith('.words'):
            for shard in array.addressable_shards:
                assert math.prod(shard.data.shape) * 4 <= array.size, name


def test_a_mesh_that_cuts_words_is_refused(tmp_path):
    quantised, _ = as_gptq.publish(tmp_path, dataclasses.replace(LLAMA, mlp=96), Plan(3, 32))
    mesh = sharding.make_mesh(config.Mesh(1, 1, 2), jax.devices()[:2])
    with pytest.raises(ValueError, match=r'blocks.0.mlp.down.words has 9 entries along mlp, which'):
        belle_jax.load_model(quantised, mesh=mesh)


def test_a_quantised_model_is_neither_trained_nor_converted(tmp_path):
    quantised, _ = as_gptq.publish(tmp_path, LLAMA, Plan())
    with pytest.raises(ValueError, match='a quantised model is run as it is, and neither trained'):
        huggingface.open(quantised)
    with pytest.raises(ValueError, match='is quantised, and its weights are no longer there'):
        huggingface.write(gptq.open(quantised), tmp_path / 'out')


# --- what is not right ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        ({'bits': 5}, r'bits=5 is not read here: 2, 3, 4, 8 are'),
        ({'bits': '4'}, r'bits="4" is not read here'),
        ({'bits': 8}, r'q_proj\.qweight in .* which are not 8-bit codes of 128 inputs'),
        (
            {'group_size': 64},
            r'scales in .* 128 outputs and groups of 64 of 128 inputs need \[2, 128\]',
        ),
        ({'group_size': 0}, r'group_size=0 is not read here'),
        ({'checkpoint_format': 'marlin'}, r'checkpoint_format="marlin" is not read here: gptq and'),
        ({'checkpoint_format': ['x']}, r'checkpoint_format=\["x"\] is not read here'),
        ({'pack_dtype': 'int8'}, r'pack_dtype="int8" is not read here: only int32 is'),
        ({'is_marlin_format': True}, r'is_marlin_format=true is not read here'),
        ({'quant_method': 'awq'}, r'quant_method="awq" is not read here: gptq and compressed-'),
        ({'quant_method': 'compressed-tensors'}, r'format=null is not read here: only pack-quan'),
    ],
)
def test_settings_that_are_not_read_are_named(tmp_path, change, said):
    plan = Plan()
    packed, _ = as_gptq.tensors(LLAMA, plan)
    extra = {'quantization_config': as_gptq.settings(plan) | change}
    with pytest.raises(ValueError, match=said):
        gptq.open(as_gptq.write(tmp_path / 'q', LLAMA, packed, extra))


def without(name):
    return lambda tensors: tensors.pop(f'model.layers.1.mlp.up_proj.{name}')


def put(name, array):
    return lambda tensors: tensors.update({f'model.layers.1.mlp.up_proj.{name}': array})


@pytest.mark.parametrize(
    ('change', 'said'),
    [
        (without('qzeros'), r'up_proj\.qzeros is missing from .*, which has .*up_proj\.qweight'),
        (without('scales'), r'up_proj\.scales is missing'),
        (without('qweight'), r'up_proj\.qweight is missing from .*Complete the download'),
        (
            put('qweight', np.zeros((15, 192), np.int32)),
            r'has shape \[15, 192\] .* not 4-bit codes',
        ),
        (put('qweight', np.zeros((16, 192), np.float32)), r'dtype float32, which are not 4-bit'),
        (put('qweight', np.zeros(16, np.int32)), r'has shape \[16\]'),
        (put('scales', np.zeros((5, 192), np.float16)), r'scales in .* has shape \[5, 192\]'),
        (put('scales', np.zeros((4, 192), np.int32)), r'scales in .* floating-point numbers'),
        (put('scales', np.zeros(4, np.float16)), r'are not 4-bit codes'),
        (put('qzeros', np.zeros((4, 23), np.int32)), r'qzeros in .* need \[4, 24\] and int32'),
        (put('qzeros', np.zeros((4, 24), np.int64)), r'qzeros in .* dtype int64'),
        (put('g_idx', np.zeros(127, np.int32)), r'g_idx in .* need \[128\]'),
        (put('g_idx', np.full(128, 4, np.int32)), r'has groups from 4 to 4, but there are 4'),
        (put('g_idx', np.full(128, -1, np.int32)), r'has groups from -1 to -1'),
        (
            put('weight', np.zeros((192, 128), np.float16)),
            r'up_proj.weight in .* is there a second time, as',
        ),
    ],
)
def test_damaged_tensors_are_told_in_one_sentence(tmp_path, change, said):
    plan = Plan()
    packed, _ = as_gptq.tensors(LLAMA, plan)
    change(packed)
    extra = {'quantization_config': as_gptq.settings(plan)}
    with pytest.raises(ValueError, match=said) as error:
        gptq.open(as_gptq.write(tmp_path / 'q', LLAMA, packed, extra))
    assert '\n' not in str(error.value)


def test_bits_that_differ_by_module_are_refused(tmp_path):
    packed, _ = as_gptq.tensors(LLAMA, Plan(4))
    others, _ = as_gptq.tensors(LLAMA, Plan(8))
    packed |= {n: a for n, a in others.items() if 'layers.1.mlp.down_proj' in n}
    said = as_gptq.settings(Plan(4)) | {'dynamic': {'.*layers.1.*down_proj': {'bits': 8}}}
    as_gptq.write(tmp_path / 'q', LLAMA, packed, {'quantization_config': said})
    with pytest.raises(ValueError, match=r'layers.1.mlp.down_proj.qweight .* not 4-bit codes'):
        gptq.open(tmp_path / 'q')
    stem = 'model.layers.1.mlp.down_proj.'
    packed = {n: a for n, a in packed.items() if not n.startswith(stem)}
    packed[f'{stem}weight'] = np.zeros((128, 192), np.float16)
    save_file(packed, tmp_path / 'q' / 'model.safetensors')
    with pytest.raises(ValueError, match=r'down_proj.weight in .* is not quantised: here all'):
        gptq.open(tmp_path / 'q')


def test_autogptqs_own_file_names_and_settings_are_read(tmp_path):
    quantised, _ = as_gptq.publish(tmp_path, LLAMA, Plan(4, 32))
    expected = gptq.open(quantised)
    said = json.loads((quantised / 'config.json').read_text())
    settings = said.pop('quantization_config')
    settings = {k: settings[k] for k in ('bits', 'group_size', 'desc_act', 'sym')}
    (quantised / 'config.json').write_text(json.dumps(said))
    (quantised / 'quantize_config.json').write_text(json.dumps(settings))
    (quantised / 'model.safetensors').rename(quantised / 'gptq_model-4bit-32g.safetensors')
    assert_same(open_parameters(quantised), expected)


def test_bits_and_groups_of_a_bare_file_follow_from_its_shapes(tmp_path):
    pytest.importorskip('torch')
    for bits, group in ((2, 16), (3, 32), (4, 64), (8, -1)):
        plan = Plan(bits, group, **BELLE)
        folder = as_gptq.belle(tmp_path / f'{bits}', LLAMA, plan)
        packing = gptq.open(folder, folder / 'weights.pt').packing
        assert packing == Packing(bits, max(group, 0), symmetric=False)


def test_a_file_that_is_not_there_is_named(tmp_path):
    as_gptq.write(tmp_path / 'base', LLAMA, {}, {})
    with pytest.raises(ValueError, match=r'--weights=.*no.pt is not a file'):
        gptq.open(tmp_path / 'base', tmp_path / 'no.pt')
