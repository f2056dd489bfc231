"""PaddleNLP's models: packed here with Python's own pickle, in the layout that Paddle writes."""

import json
import os
import pickle
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from tokenizers import Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

import belle_jax
from belle_jax.data import templates, tokenizer
from belle_jax.formats import huggingface, paddle
from belle_jax.formats.paddle import pdparams
from belle_jax.weights import shards
from belle_jax.weights.tensors import planned

torch = pytest.importorskip('torch')
import transformers  # noqa: E402

ROOT = Path(__file__).resolve().parents[2]
RNG = np.random.default_rng(12)
TABLE = 'StructuredToParameterName@@'
SIZES = {'vocab_size': 275, 'hidden_size': 48, 'bos_token_id': 1, 'eos_token_id': 2}
CONFIGS = {
    'bloom': SIZES | {'n_layer': 2, 'n_head': 6, 'layer_norm_epsilon': 3e-4, 'pad_token_id': 3},
    'llama': SIZES
    | {
        'intermediate_size': 80,
        'num_hidden_layers': 2,
        'num_attention_heads': 4,
        'num_key_value_heads': 2,
        'rms_norm_eps': 3e-4,
        'rope_theta': 500.0,
        'max_position_embeddings': 64,
    },
}
TOKENS = (np.arange(38).reshape(2, 19) * 7 + 3) % 275
# What Paddle has as nn.Linear, whose weight is [in, out].
LINEAR = (
    *('query_key_value', 'dense', 'dense_h_to_4h', 'dense_4h_to_h'),
    *('q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'),
)
BELLE_CHAT = {
    'conversation': ['Human: {{user}}\n\nAssistant:', '{{bot}}</s>'],
    'query': 'Human: {{query}}\n\nAssistant:',
}
TEXTS = ['ab a.a', "你好，世界！ It's", 'Human: a!.\n\nAssistant: </s>', ' \t 12 (ab)', '']


# --- an independent packer ------------------------------------------------------------------------


@pytest.fixture(scope='module')
def originals():
    """Random models of transformers, and their logits."""
    out = {}
    for family, kind in (('bloom', 'Bloom'), ('llama', 'Llama')):
        torch.manual_seed(5)
        config = getattr(transformers, f'{kind}Config')(**CONFIGS[family])
        model = getattr(transformers, f'{kind}ForCausalLM')(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
            logits = model(torch.tensor(TOKENS)).logits.numpy()
        out[family] = ({k: v.numpy() for k, v in model.state_dict().items()}, logits)
    return out


def in_paddles_layout(weights, family, prefix=None, head=False):
    """A state dict as PaddleNLP has it."""
    prefix = f'{family}.' if prefix is None else prefix
    out = {}
    for name, array in weights.items():
        if name == 'lm_head.weight':
            if family == 'llama' or head:
                out[name] = array.T if family == 'llama' else array
            continue
        turned = name.split('.')[-2] in LINEAR and array.ndim == 2
        bare = name.removeprefix('transformer.').removeprefix('model.')
        out[prefix + bare] = array.T if turned else array
    return out


def pack(directory, weights, family='bloom', protocol=4, chat=BELLE_CHAT, **config):
    """A directory of PaddleNLP's."""
    directory.mkdir(parents=True)
    content = weights | {TABLE: {name: f'linear_{i}.w_0' for i, name in enumerate(weights)}}
    with (directory / 'model_state.pdparams').open('wb') as file:
        pickle.dump(content, file, protocol=protocol)
    name = {'bloom': 'BloomForCausalLM', 'llama': 'LlamaForCausalLM'}[family]
    values = CONFIGS[family] | {'architectures': [name], 'dtype': 'float32'} | config
    (directory / 'config.json').write_text(json.dumps(values))
    if family == 'bloom':
        words(directory)
        (directory / 'chat_template.json').write_text(json.dumps(chat, indent=4))
    return directory


def words(directory):
    """A tokenizer as PaddleNLP has it; returns BLOOM's own with the same words."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = ['<unk>', '<s>', '</s>', '<pad>', *letters, '.a', '!.', 'ab', 'Ġa']
    merges = ['. a', '! .', 'a b', 'Ġ a']
    ids = {word: i for i, word in enumerate(vocab)}
    (directory / 'vocab.json').write_text(json.dumps(ids, ensure_ascii=False), 'utf-8')
    (directory / 'merges.txt').write_text('\n'.join(['#version: 0.2', *merges]) + '\n', 'utf-8')
    names = {'unk_token': '<unk>', 'bos_token': '<s>', 'eos_token': '</s>', 'pad_token': '<pad>'}
    settings = names | {'tokenizer_class': 'BloomTokenizer'}
    (directory / 'tokenizer_config.json').write_text(json.dumps(settings))
    # bigscience/tokenizer: words end at these characters and nowhere else.
    made = Backend(models.BPE(vocab=ids, merges=[(m[0], m[2:]) for m in merges]))
    split = pre_tokenizers.Split(Regex(r' ?[^(\s|[.,!?…。，、।۔،])]+'), 'isolated')
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([split, level])
    made.decoder = decoders.ByteLevel()
    return made


def program(name, *flags):
    env = os.environ | {'PYTHONPATH': str(ROOT), 'JAX_PLATFORMS': 'cpu'}
    command = [sys.executable, '-m', f'convert.{name}', *map(str, flags)]
    return subprocess.run(
        command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False
    )


def from_paddle(source, target, max_shard_size=5 * 10**9, kind='safetensors'):
    """What convert.from_paddle does."""
    return huggingface.write(paddle.open(source), target, '', max_shard_size, kind)


def to_paddle(source, target, dtype=''):
    """What convert.to_paddle does."""
    return paddle.write(huggingface.open(source), target, dtype)


def arrays(directory):
    return {name: np.array(t.array) for name, t in shards.read(directory).items()}


def check_equal(read, expected):
    assert read.keys() == expected.keys()
    for name, array in expected.items():
        assert (read[name].shape, read[name].dtype) == (array.shape, array.dtype), name
        assert read[name].tobytes() == array.tobytes(), name


def published(weights, family):
    """What a Hugging Face directory of the model holds."""
    return {k: v for k, v in weights.items() if family == 'llama' or k != 'lm_head.weight'}


# --- models ---------------------------------------------------------------------------------------


@pytest.mark.parametrize('family', CONFIGS)
def test_a_packed_model_says_what_transformers_says_and_comes_back_exactly(
    tmp_path, originals, family
):
    weights, logits = originals[family]
    source = pack(tmp_path / 'source', in_paddles_layout(weights, family), family)
    target, back = tmp_path / 'target', tmp_path / 'back'
    done = program('from_paddle', f'--source={source}', f'--target={target}')
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(target)
    check_equal(arrays(target), published(weights, family))
    model = belle_jax.load_model(target)
    assert np.abs(np.asarray(model(jnp.asarray(TOKENS))) - logits).max() < 2e-5
    theirs = transformers.AutoModelForCausalLM.from_pretrained(target).eval()
    with torch.no_grad():
        assert np.abs(theirs(torch.tensor(TOKENS)).logits.numpy() - logits).max() < 2e-5

    done = program('to_paddle', f'--source={target}', f'--target={back}')
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, str(back)), done.stderr
    with (back / 'model_state.pdparams').open('rb') as file:
        content = pickle.load(file)
    assert set(content.pop(TABLE)) == set(content)
    check_equal(content, in_paddles_layout(weights, family))
    from_paddle(back, tmp_path / 'again')
    check_equal(arrays(tmp_path / 'again'), published(weights, family))
    for name in ('config.json', 'generation_config.json', 'tokenizer.json'):
        if (target / name).is_file():
            assert (tmp_path / 'again' / name).read_bytes() == (target / name).read_bytes()
    for name in ('chat_template.json', 'vocab.json', 'merges.txt'):
        if (source / name).is_file():
            assert (back / name).read_bytes() == (source / name).read_bytes()


def test_the_tokenizer_says_the_ids_of_bloom_here_and_in_transformers(tmp_path, originals):
    source = pack(tmp_path / 'source', in_paddles_layout(originals['bloom'][0], 'bloom'))
    (tmp_path / 'x').mkdir()
    oracle = words(tmp_path / 'x')
    from_paddle(source, tmp_path / 'target')
    expected = [oracle.encode(text).ids for text in TEXTS]
    assert expected[0] == [oracle.token_to_id(t) for t in ('ab', 'Ġa', '.', 'a')]
    made = tokenizer.load(tmp_path / 'target')
    assert list(made.encode_batch(TEXTS)) == expected
    assert (made.bos_id, made.eos_id, made.pad_id, made.adds_bos) == (1, 2, 3, False)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / 'target')
    assert [theirs.encode(t) for t in TEXTS if '</s>' not in t] == [
        ids for ids, t in zip(expected, TEXTS) if '</s>' not in t
    ]
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (1, 2, 3)


@pytest.mark.parametrize('prefix', ['bloom.', 'transformer.', ''])
def test_names_may_have_any_prefix(tmp_path, originals, prefix):
    weights = in_paddles_layout(originals['bloom'][0], 'bloom', prefix)
    weights[f'{prefix}h.0.self_attention.scale_mask_softmax.causal_mask'] = np.ones((1, 1, 8, 8))
    from_paddle(pack(tmp_path / 'a', weights), tmp_path / 'b', 50_000, 'bin')
    assert len(list((tmp_path / 'b').glob('*.bin'))) > 2
    check_equal(arrays(tmp_path / 'b'), published(originals['bloom'][0], 'bloom'))


def test_a_tied_head_may_be_stored_if_it_is_the_same(tmp_path, originals):
    weights = in_paddles_layout(originals['bloom'][0], 'bloom', head=True)
    head = weights.pop('lm_head.weight')
    for i, stored in enumerate(
        ({'lm_head.weight': head}, {'lm_head.weight': head.T}, {'lm_head.decoder_weight': head})
    ):
        from_paddle(pack(tmp_path / f's{i}', weights | stored), tmp_path / f't{i}')
        check_equal(arrays(tmp_path / f't{i}'), published(originals['bloom'][0], 'bloom'))
    other = head.copy()
    other[-1, -1] += 1
    source = pack(tmp_path / 'other', weights | {'lm_head.weight': other})
    with pytest.raises(ValueError, match=r'lm_head.weight in .*model_state.pdparams differs'):
        from_paddle(source, tmp_path / 'no')


def test_uint16_is_bfloat16_both_ways(tmp_path, originals):
    exact = {k: v.astype(ml_dtypes.bfloat16) for k, v in originals['bloom'][0].items()}
    stored = {k: v.view(np.uint16) for k, v in in_paddles_layout(exact, 'bloom').items()}
    from_paddle(pack(tmp_path / 'a', stored), tmp_path / 'b')
    check_equal(arrays(tmp_path / 'b'), published(exact, 'bloom'))
    assert json.loads((tmp_path / 'b' / 'config.json').read_text())['dtype'] == 'bfloat16'
    to_paddle(tmp_path / 'b', tmp_path / 'c')
    content = pickle.loads((tmp_path / 'c' / 'model_state.pdparams').read_bytes())
    content.pop(TABLE)
    check_equal(content, stored)


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
def test_weights_are_rounded_to_the_dtype_asked_for(tmp_path, originals, dtype):
    weights = originals['llama'][0]
    from_paddle(pack(tmp_path / 'a', in_paddles_layout(weights, 'llama'), 'llama'), tmp_path / 'b')
    to_paddle(tmp_path / 'b', tmp_path / 'c', dtype)
    numbers = np.dtype(dtype if dtype == 'float16' else ml_dtypes.bfloat16)
    expected = in_paddles_layout({k: v.astype(numbers) for k, v in weights.items()}, 'llama')
    read = pdparams.read(tmp_path / 'c' / 'model_state.pdparams')
    check_equal({k: np.array(v.array) for k, v in read.items()}, expected)
    assert json.loads((tmp_path / 'c' / 'config.json').read_text())['dtype'] == dtype


def test_large_matrices_are_turned_exactly(tmp_path):
    weight = RNG.integers(0, 60_000, (700, 520)).astype(np.uint16)
    for array in (weight.T, weight[:, ::2].T, weight[:1].T, weight[3:].T[5:]):
        pdparams.write(tmp_path / 'x', [planned('a', array.view(ml_dtypes.bfloat16))])
        assert np.array_equal(pickle.loads((tmp_path / 'x').read_bytes())['a'], array)


def test_numbers_that_float16_cannot_hold_are_refused_with_their_tensor(tmp_path, originals):
    weights = dict(originals['bloom'][0])
    weights['transformer.h.1.mlp.dense_h_to_4h.weight'] = np.full((192, 48), 1e5, np.float32)
    from_paddle(pack(tmp_path / 'a', in_paddles_layout(weights, 'bloom')), tmp_path / 'b')
    with pytest.raises(ValueError, match=r'1.mlp.dense_h_to_4h.weight .*--dtype=bfloat16'):
        to_paddle(tmp_path / 'b', tmp_path / 'c', 'float16')
    assert sorted(p.name for p in tmp_path.iterdir()) == ['a', 'b']


# --- what is refused ------------------------------------------------------------------------------


def break_names(weights, what):
    attention = 'bloom.h.0.self_attention.query_key_value.weight'
    if what == 'missing':
        del weights['bloom.ln_f.bias']
    elif what == 'left over':
        weights['bloom.h.7.input_layernorm.weight'] = weights['bloom.ln_f.bias']
    elif what == 'wrong shape':
        weights[attention] = weights[attention].T
    elif what == 'wrong vector':
        weights['bloom.ln_f.bias'] = weights['bloom.ln_f.bias'][1:]
    elif what == 'twice':
        weights['transformer.ln_f.bias'] = weights['bloom.ln_f.bias']
    elif what == 'integers':
        weights['bloom.ln_f.bias'] = weights['bloom.ln_f.bias'].astype(np.int8)


@pytest.mark.parametrize(
    ('what', 'message'),
    [
        ('missing', r'transformer.ln_f.bias is missing from .*pdparams'),
        ('left over', r'bloom.h.7.input_layernorm.weight in .* belongs to no part'),
        ('wrong shape', r'value.weight in .* has shape \[144, 48\], .* asks for \[48, 144\]'),
        ('wrong vector', r'bloom.ln_f.bias in .* has shape \[47\], .* asks for \[48\]'),
        ('twice', r'transformer.ln_f.bias in .* a second time, as bloom.ln_f.bias'),
        ('integers', r'bloom.ln_f.bias in .* holds int8 numbers'),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path, originals, what, message):
    weights = in_paddles_layout(originals['bloom'][0], 'bloom')
    break_names(weights, what)
    source = pack(tmp_path / 'a', weights)
    with pytest.raises(ValueError, match=message):
        from_paddle(source, tmp_path / 'b')
    assert [p.name for p in tmp_path.iterdir()] == ['a']


@pytest.mark.parametrize(
    ('family', 'config', 'message'),
    [
        ('bloom', {'architectures': ['GPTForCausalLM']}, 'only BLOOM and LLaMA are read'),
        ('bloom', {'tensor_parallel_degree': 2}, 'tensor_parallel_degree=2'),
        ('llama', {'fuse_attention_qkv': True}, 'fuse_attention_qkv=true is not read'),
        ('llama', {'alibi': True}, 'alibi=true is not read'),
        ('llama', {'rope_scaling_type': 'ntk'}, "rope_scaling_type='ntk' is not read"),
    ],
)
def test_configurations_that_mean_another_model_are_refused(tmp_path, family, config, message):
    source = pack(tmp_path / 'a', {}, family, **config)
    with pytest.raises(ValueError, match=f'config.json: .*{message}'):
        from_paddle(source, tmp_path / 'b')


def test_older_configurations_nest_the_settings(tmp_path, originals):
    weights = in_paddles_layout(originals['bloom'][0], 'bloom')
    source = pack(tmp_path / 'a', weights)
    (source / 'config.json').unlink()
    inner = CONFIGS['bloom'] | {'init_class': 'BloomModel'}
    nested = {'init_args': [inner], 'init_class': 'BloomForCausalLM'}
    (source / 'model_config.json').write_text(json.dumps(nested))
    model = belle_jax.load_model(from_paddle(source, tmp_path / 'b'))
    logits = np.asarray(model(jnp.asarray(TOKENS)))
    assert np.abs(logits - originals['bloom'][1]).max() < 2e-5


def test_paddles_rotary_scaling_is_hugging_faces(tmp_path, originals):
    weights = in_paddles_layout(originals['llama'][0], 'llama')
    scaled = {'rope_scaling_type': 'linear', 'rope_scaling_factor': 4.0}
    target = from_paddle(pack(tmp_path / 'a', weights, 'llama', **scaled), tmp_path / 'b')
    values = json.loads((target / 'config.json').read_text())
    assert values['rope_parameters'] == {'rope_type': 'linear', 'factor': 4.0, 'rope_theta': 500.0}
    back = json.loads((to_paddle(target, tmp_path / 'c') / 'config.json').read_text())
    assert {k: back[k] for k in scaled} == scaled
    values['rope_scaling'] = {'rope_type': 'dynamic', 'factor': 4.0}
    (target / 'config.json').write_text(json.dumps(values))
    with pytest.raises(ValueError, match="of the kind dynamic, which PaddleNLP's has not"):
        to_paddle(target, tmp_path / 'd')


def test_the_programs_end_in_one_sentence_and_leave_nothing(tmp_path, originals):
    source = pack(tmp_path / 'a', in_paddles_layout(originals['bloom'][0], 'bloom'))
    file = source / 'model_state.pdparams'
    os.truncate(file, file.stat().st_size // 2)
    done = program('from_paddle', f'--source={source}', f'--target={tmp_path / "b"}')
    assert done.returncode == 1
    assert done.stderr.startswith(f'convert.from_paddle: {file} cannot be read as Paddle weights')
    assert done.stderr.count('\n') == 1
    assert [p.name for p in tmp_path.iterdir()] == ['a']
    for missing in ('model_state.pdparams', 'config.json'):
        (source / missing).unlink()
        with pytest.raises(ValueError, match=rf'{source}.*{missing}|{missing} is missing'):
            from_paddle(source, tmp_path / 'b')


# --- the pickle -----------------------------------------------------------------------------------


CONTENTS = {
    'half': RNG.normal(size=(5, 7)).astype(np.float16),
    'turned': RNG.normal(size=(6, 4)).astype(np.float32).T,
    'scalar': np.array(2.5, np.float64),
    'bits': RNG.integers(0, 2**16, (300, 130)).astype(np.uint16),
    'mask': np.array([True, False]),
}


@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
@pytest.mark.parametrize('kind', ['dict', 'ordered', 'named', 'strided'])
def test_every_protocol_and_form_of_paddle_save_is_read(tmp_path, protocol, kind):
    content: dict = dict(CONTENTS)
    if kind == 'ordered':
        content = OrderedDict(content)
    elif kind == 'named':  # tensors outside of a state dict: (name in the graph, array)
        content = {name: (f'eager_tmp_{name}', array) for name, array in content.items()}
    elif kind == 'strided':
        content = {name: a[::2] if a.ndim else a for name, a in content.items()} | {TABLE: {}}
    path = tmp_path / 'x.pdparams'
    path.write_bytes(pickle.dumps(content, protocol))
    content.pop(TABLE, None)
    read = pdparams.read(path)
    for name, tensor in read.items():
        expected = content[name][1] if kind == 'named' else content[name]
        if name == 'bits':
            expected = expected.view(ml_dtypes.bfloat16)
        assert (tensor.array.shape, tensor.array.dtype) == (expected.shape, expected.dtype)
        assert tensor.array.tobytes() == expected.tobytes(), name
    assert list(read) == list(content)
    if protocol > 2:
        owner = read['bits'].array
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        assert isinstance(owner, np.memmap)  # nothing was copied


@pytest.mark.parametrize('protocol', [2, 3])
def test_arrays_in_pieces_are_put_together(tmp_path, protocol):
    whole = RNG.normal(size=(7, 9)).astype(np.float16)
    pieces = {f'w@@.{i}': whole.ravel()[i * 20 : i * 20 + 20] for i in range(4)}
    table = {'w': {'OriginShape': whole.shape, 'slices': list(pieces)}}
    path = tmp_path / 'x.pdparams'
    content = {'a': np.ones(3, np.float32)} | pieces | {'UnpackBigParamInfor@@': table}
    path.write_bytes(pickle.dumps(content, protocol))
    read = pdparams.read(path)
    assert list(read) == ['a', 'w']
    assert np.array_equal(read['w'].array, whole)
    del content['w@@.2']
    path.write_bytes(pickle.dumps(content, protocol))
    with pytest.raises(ValueError, match="'w' lacks a piece"):
        pdparams.read(path)


class Touch:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f'touch {self.path}',)


class Evaluate:
    def __reduce__(self):
        return eval, ('data', {'data': 1})  # as paddle.save writes a DenseTensor


@pytest.mark.parametrize('protocol', [2, 4])
def test_a_pickle_that_would_run_code_is_refused_by_name_and_runs_none(tmp_path, protocol):
    path, mark = tmp_path / 'x.pdparams', tmp_path / 'mark'
    for thing, name in (
        (Touch(mark), 'posix.system'),
        (Evaluate(), r'(__builtin__|builtins).eval'),
    ):
        path.write_bytes(pickle.dumps({'a': np.ones(3), 'b': thing}, protocol))
        with pytest.raises(ValueError, match=rf'x.pdparams .*{name}, .* was not run, at byte \d+'):
            pdparams.read(path)
    assert not mark.exists()


@pytest.mark.parametrize(
    ('program', 'message'),
    [
        (b'cos\nsystem\n(X\x02\x00\x00\x00lstR.', 'os.system'),
        (b'(X\x02\x00\x00\x00lsios\nsystem\n.', 'the instruction INST'),
        (b'cnumpy\ndtype.__class__\n.', 'numpy.dtype.__class__'),
        (b'cnumpy\ndtype\n}X\x01\x00\x00\x00aK\x01sb.', 'sets the state of a Global'),
        (b'cnumpy\nndarray\n)R.', 'calls what cannot be called'),
        (b'cnumpy\ndtype\nX\x02\x00\x00\x00O8\x88\x88\x87R.', "dtype 'O8'"),
        (b'cnumpy\ndtype\nK\x01\x85R.', 'dtype a int'),
        (b'cnumpy\ndtype\n)R.', 'other arguments'),
        (b'\x82\x01.', 'the instruction EXT1'),
        (b'K\x01Q.', 'the instruction BINPERSID'),
        (b'cnumpy\nndarray\n)\x81.', 'the instruction NEWOBJ'),
        (b'\x80\x01N.', 'protocol 1'),
        (b'\x80\x07N.', 'protocol 7'),
        (b'}K\x01K\x01s.', 'a int for a name'),
        (b'}(X\x01\x00\x00\x00aNX\x01\x00\x00\x00aNu.', "names 'a' twice"),
        (b'h\x05.', 'recalls a value 5'),
        (b'u.', 'not there, at byte 0'),
        (b'\x85.', 'not there, at byte 0'),
        (b'(.', 'in the middle of a value'),
        (b'}.}.', 'ends before the file does'),
        (b'].', 'holds a list'),
        (b'\xff.', 'the instruction 0xff'),
        (b'c' + b'x' * 500, 'truncated in a name'),
        (b'\x8e' + b'\xff' * 8, 'truncated'),
        (b'', 'truncated'),
    ],
)
def test_tricks_and_damage_are_refused_in_a_sentence(tmp_path, program, message):
    path = tmp_path / 'x.pdparams'
    path.write_bytes(program)
    with pytest.raises(ValueError, match=message) as error:
        pdparams.read(path)
    assert str(path) in str(error.value)


def test_a_value_that_grows_when_it_is_shown_is_not_shown(tmp_path):
    # Lists of eight references each to the list before, forty deep.
    lists = [
        b']q\x00',
        *(b'](' + bytes([104, i]) * 8 + bytes([101, 113, i + 1]) for i in range(40)),
    ]
    path = tmp_path / 'x.pdparams'
    path.write_bytes(b''.join(lists) + b'cnumpy\ndtype\nh\x28\x85R.')
    with pytest.raises(ValueError, match='dtype a list') as error:
        pdparams.read(path)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize('protocol', [2, 4, 5])
def test_truncation_and_random_damage_raise_nothing_but_a_sentence(tmp_path, protocol):
    path = tmp_path / 'x.pdparams'
    content = {'a': np.arange(6, dtype=np.float16), 'b': ('n', np.ones((2, 2), np.float32))}
    whole = pickle.dumps(content, protocol)
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=rf'{path} .* at byte \d+'):
            pdparams.read(path)
    for _ in range(400):
        damaged = bytearray(whole)
        damaged[RNG.integers(len(whole))] = RNG.integers(256)
        path.write_bytes(damaged)
        try:
            for tensor in pdparams.read(path).values():
                tensor.array.tobytes()
        except ValueError as error:
            assert str(path) in str(error)


# --- chat templates and tokenizers ----------------------------------------------------------------


CONVERSATION = [
    {'role': 'user', 'content': 'ab?'},
    {'role': 'assistant', 'content': 'a.a'},
    {'role': 'user', 'content': '你好'},
]


def test_belles_chat_template_becomes_the_tokenizers_own(tmp_path, originals, capsys):
    source = pack(tmp_path / 'a', in_paddles_layout(originals['bloom'][0], 'bloom'))
    made = tokenizer.load(from_paddle(source, tmp_path / 'b'))
    assert 'says what the template belle says.' in capsys.readouterr().out
    own, belle = (templates.Template(name, made) for name in ('tokenizer', 'belle'))
    for end in (1, 3):
        assert own.prompt(CONVERSATION[:end]) == belle.prompt(CONVERSATION[:end])
    expected = 'Human: ab?\n\nAssistant:a.a</s>Human: 你好\n\nAssistant:'
    assert made.decode(own.prompt(CONVERSATION), skip_special=False) == expected
    # Without PaddleNLP's file, the way back says it from the tokenizer's own.
    (tmp_path / 'b' / 'chat_template.json').unlink()
    back = to_paddle(tmp_path / 'b', tmp_path / 'c')
    assert json.loads((back / 'chat_template.json').read_text()) == BELLE_CHAT


@pytest.mark.parametrize(
    ('chat', 'said', 'own'),
    [
        ({'query': BELLE_CHAT['query']}, 'belle says for first turns; it writes later', True),
        (
            {'conversation': ['Human:{{user}}\n\nAssistant:', '{{bot}}']} | {
                'query': BELLE_CHAT['query']},
            'says what the template belle_card says.',
            True,
        ),
        ({'query': '问：{{query}}\n答：'}, 'says what no template here says: it is kept', False),
        ({'query': '{{ 1 / 0 }}{{ x.y.z }}'}, 'says what no template here says', False),
        ({'query': '{% for %}', 'conversation': 7}, 'says what no template here says', False),
    ],
)  # fmt: skip
def test_other_chat_templates_are_told_apart_and_kept(tmp_path, originals, capsys, chat, said, own):
    source = pack(tmp_path / 'a', in_paddles_layout(originals['bloom'][0], 'bloom'), chat=chat)
    target = from_paddle(source, tmp_path / 'b')
    assert said in capsys.readouterr().out
    assert (tokenizer.load(target).chat_template is not None) == own
    assert json.loads((target / 'chat_template.json').read_text()) == chat


def test_a_tokenizer_json_alone_becomes_words_and_merges(tmp_path, originals, capsys):
    source = pack(tmp_path / 'a', in_paddles_layout(originals['bloom'][0], 'bloom'))
    target = from_paddle(source, tmp_path / 'b')
    (target / 'vocab.json').unlink()
    (target / 'merges.txt').unlink()
    back = to_paddle(target, tmp_path / 'c')
    assert (back / 'merges.txt').read_bytes() == (source / 'merges.txt').read_bytes()
    ids = json.loads((source / 'vocab.json').read_text('utf-8'))
    assert json.loads((back / 'vocab.json').read_text('utf-8')) == ids
    assert not (back / 'tokenizer.json').exists()
    # A tokenizer that splits words in other places cannot be said in PaddleNLP's files.
    state = json.loads((target / 'tokenizer.json').read_text('utf-8'))
    state['pre_tokenizer'] = {'type': 'ByteLevel', 'add_prefix_space': False, 'use_regex': True}
    state['pre_tokenizer'] |= {'trim_offsets': True}
    (target / 'tokenizer.json').write_text(json.dumps(state), 'utf-8')
    to_paddle(target, tmp_path / 'd')
    assert 'splits words otherwise' in capsys.readouterr().out


def test_llamas_pieces_change_their_name_and_nothing_else(tmp_path, originals, shared):
    weights = in_paddles_layout(originals['llama'][0], 'llama')
    source = pack(tmp_path / 'a', weights, 'llama')
    pieces = (shared / 'data/tokenizers/llama_tokenizer.model').read_bytes()
    (source / 'sentencepiece.bpe.model').write_bytes(pieces)
    target = from_paddle(source, tmp_path / 'b')
    assert (target / 'tokenizer.model').read_bytes() == pieces
    assert tokenizer.load(target).encode('Hello', bos=True) == [1, 15043]
    back = to_paddle(target, tmp_path / 'c')
    assert (back / 'sentencepiece.bpe.model').read_bytes() == pieces


# --- the real Paddle ------------------------------------------------------------------------------

SAVE = """
import sys, numpy, paddle
folder = sys.argv[1]
arrays = dict(numpy.load(f'{folder}/arrays.npz'))
tensors = {name: paddle.to_tensor(array) for name, array in arrays.items()}
tensors['bf16'] = tensors['a'].astype('bfloat16')
for protocol in (2, 3, 4):
    paddle.save(tensors, f'{folder}/{protocol}.pdparams', protocol=protocol)
read = paddle.load(f'{folder}/ours.pdparams')
assert set(read) == {*arrays, 'bf16'}, set(read)
assert str(read['bf16'].dtype) == 'paddle.bfloat16'
for name, array in arrays.items():
    assert numpy.array_equal(read[name].numpy(), array), name
assert numpy.array_equal(read['bf16'].astype('float32').numpy(), arrays['a'])
"""


def test_the_real_paddle_reads_our_files_and_we_read_its(tmp_path):
    python = os.environ.get('BELLE_PADDLE')
    if not python:
        pytest.skip('BELLE_PADDLE names no Python that has paddlepaddle')
    values = {
        'a': RNG.integers(-9, 9, (4, 6)).astype(np.float32),
        'b': RNG.normal(size=(70, 3)).astype(np.float16),
        'c.weight': RNG.normal(size=5),
    }
    np.savez(tmp_path / 'arrays.npz', **values)
    ours = values | {'bf16': values['a'].astype(ml_dtypes.bfloat16)}
    pdparams.write(tmp_path / 'ours.pdparams', [planned(n, a) for n, a in ours.items()])
    done = subprocess.run(
        [python, '-c', SAVE, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for protocol in (2, 3, 4):
        read = pdparams.read(tmp_path / f'{protocol}.pdparams')
        check_equal({n: np.array(t.array) for n, t in read.items()}, ours)
