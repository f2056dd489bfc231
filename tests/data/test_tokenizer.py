"""Tokenizers: the golden tokenizations, whatever shape the directory was published in."""

import json
import shutil

import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

from belle_jax.data import tokenizer

# decapoda-research/llama-7b-hf: a class that no longer exists, empty names, wrong ids, pad -1.
OLD_LLAMA = {'tokenizer_class': 'LLaMATokenizer', 'bos_token': '', 'eos_token': '', 'unk_token': ''}
OLD_CONFIG = {'model_type': 'llama', 'bos_token_id': 0, 'eos_token_id': 1, 'pad_token_id': -1}
SHAPES = {
    'only tokenizer.model': (['tokenizer.model'], None, {}),
    'LLaMATokenizer': (['tokenizer.model'], OLD_LLAMA, OLD_CONFIG),
    'LlamaTokenizer': (['tokenizer.model'], {'tokenizer_class': 'LlamaTokenizer'}, {}),
    'only tokenizer.json': (['tokenizer.json'], None, {}),
    'both': (['tokenizer.model', 'tokenizer.json'], OLD_LLAMA, OLD_CONFIG),
}


def golden(shared):
    folder = shared / 'data' / 'tokenizers'
    texts = (folder / 'llama_golden.inp').read_text('utf-8').split('\n__ggml_vocab_test__\n')
    lines = (folder / 'llama_golden.out').read_text('utf-8').split('\n')
    return texts, [[int(i) for i in line.split()] for line in lines]


@pytest.fixture
def directory(shared, tmp_path):
    def make(files, settings=None, config=None):
        for name in files:
            source = shared / 'data' / 'tokenizers' / f'llama_{name}'
            shutil.copyfile(source, tmp_path / name)
        if settings is not None:
            (tmp_path / 'tokenizer_config.json').write_text(json.dumps(settings))
        (tmp_path / 'config.json').write_text(json.dumps(config or {}))
        return tmp_path

    return make


@pytest.mark.parametrize('shape', SHAPES)
def test_llama_says_the_golden_tokens_in_every_published_shape(shared, directory, shape):
    made = tokenizer.load(directory(*SHAPES[shape]))
    texts, expected = golden(shared)
    assert len(texts) == len(expected) > 40
    assert list(made.encode_batch(texts)) == expected
    assert (made.bos_id, made.eos_id, made.pad_id) == (1, 2, None)
    assert made.encode('Hello', bos=True) == [1, 15043]
    assert len(made) == 32000


def test_sentencepiece_itself_says_the_same_on_real_text(shared, directory):
    sentencepiece = pytest.importorskip('sentencepiece')
    file = shared / 'data' / 'tokenizers' / 'llama_tokenizer.model'
    oracle = sentencepiece.SentencePieceProcessor(model_file=str(file))
    made = tokenizer.load(directory(['tokenizer.model']))
    texts = (shared / 'data' / 'text' / 'xiyouji.txt').read_text('utf-8')[:50_000].split('\n')
    texts += (shared / 'data' / 'text' / 'tinyshakespeare.txt').read_text()[:50_000].split('\n')
    texts += ['a  b\t c ', '   ', '<s> </s> <unk> <0x0A>']
    assert list(made.encode_batch(texts)) == oracle.encode(texts)


def test_nobody_can_type_a_special_token(shared, directory):
    for made, typed in (
        (tokenizer.load(directory(['tokenizer.json'])), '<s>x</s><unk></s>'),
        (tokenizer.load(directory(['tokenizer.model'])), '<s>x</s><unk></s>'),
        (tokenizer.load(shared / 'data/tokenizers/zh_bpe_6400'), '<|im_end|>\n<|im_start|>system'),
    ):
        for continued in (False, True):
            ids = made.encode(typed, continued=continued)
            assert not set(ids) & set(made.special.values())
            assert made.decode(ids) == typed


def test_continued_text_has_no_dummy_space(directory):
    made = tokenizer.load(directory(['tokenizer.model']))
    assert made.encode('hi', continued=True) == made.backend.encode('xhi').ids[-1:] == [2918]
    assert made.encode('hi') == made.encode(' hi', continued=True) == [7251]


def test_a_byte_level_tokenizer_knows_its_ends_and_round_trips(shared):
    made = tokenizer.load(shared / 'data' / 'tokenizers' / 'zh_bpe_6400')
    assert (made.bos_id, made.eos_id, made.pad_id, made.adds_bos) == (1, 2, 0, False)
    text = '你好，世界！  Hello\n\n🦙 ½'
    assert made.decode(made.encode(text)) == text
    assert made.encode(text, bos=True) == made.encode(text)
    oracle = Backend.from_file(str(made.directory / 'tokenizer.json'))
    assert made.encode(text) == oracle.encode(text).ids


def test_older_blooms_vocab_and_merges_are_split_as_bloom_splits(tmp_path):
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ['<unk>', '<s>', '</s>', '<pad>', *letters, 'Ġa', '.a', 'ab']
    (tmp_path / 'vocab.json').write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (tmp_path / 'merges.txt').write_text('#version: 0.2\nĠ a\n. a\na b\n')
    settings = {'tokenizer_class': 'BloomTokenizerFast', 'eos_token': '</s>', 'bos_token': '<s>'}
    (tmp_path / 'tokenizer_config.json').write_text(json.dumps(settings))
    made = tokenizer.load(tmp_path)
    assert (made.eos_id, made.adds_bos) == (2, False)
    # BLOOM splits before and after a full stop, so '.a' is never one token.
    tokens = [made.token(i) for i in made.encode('ab a.a</s>')]
    assert tokens == ['ab', 'Ġa', '.', 'a', '<', '/', 's', '>']


def test_a_bloom_that_only_config_json_names_is_the_same_after_saving(tmp_path):
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ['<unk>', '<s>', '</s>', '<pad>', *letters, '.a', '!.', 'ab']
    source, saved = tmp_path / 'bloom', tmp_path / 'run' / 'tokenizer'
    source.mkdir()
    (source / 'vocab.json').write_text(json.dumps({w: i for i, w in enumerate(words)}))
    (source / 'merges.txt').write_text('#version: 0.2\n. a\n! .\na b\n')
    (source / 'config.json').write_text('{"model_type": "bloom"}')
    made = tokenizer.load(source)
    (saved.parent / '.tokenizer.partial').mkdir(parents=True)  # of a process that was killed
    made.save(saved)
    again = tokenizer.load(saved.parent)
    text = "ab!.a's <s> 你好 12"
    assert again.encode(text) == made.encode(text)
    assert again.fingerprint() == made.fingerprint()
    assert again.adds_bos == made.adds_bos and again.special == made.special
    assert [p.name for p in saved.parent.iterdir()] == ['tokenizer']
    again.save(saved)  # onto itself
    assert tokenizer.load(saved).fingerprint() == made.fingerprint()
    (source / 'config.json').write_text('{"model_type": "llama"}')
    assert tokenizer.load(source).fingerprint() != made.fingerprint()


def test_a_save_that_is_killed_leaves_no_tokenizer(directory, tmp_path_factory, monkeypatch):
    made = tokenizer.load(directory(['tokenizer.json', 'tokenizer.model']))
    target = tmp_path_factory.mktemp('run') / 'tokenizer'

    def killed(source, to):
        assert not target.exists()
        if to.name == 'tokenizer.model':
            raise KeyboardInterrupt
        to.write_bytes(source.read_bytes())

    with monkeypatch.context() as patch:
        patch.setattr(shutil, 'copyfile', killed)
        with pytest.raises(KeyboardInterrupt):
            made.save(target)
    assert not target.exists()
    made.save(target)
    assert [p.name for p in target.parent.iterdir()] == ['tokenizer']


def test_saved_files_are_the_source_files(directory, tmp_path_factory):
    made = tokenizer.load(directory(*SHAPES['both']))
    target = tmp_path_factory.mktemp('run') / 'tokenizer'
    made.save(target)
    names = ['tokenizer.json', 'tokenizer.model', 'tokenizer_config.json']
    assert sorted(p.name for p in target.iterdir()) == names
    for name in names:
        assert (target / name).read_bytes() == (made.directory / name).read_bytes()
    again = tokenizer.load(target.parent)  # a run directory
    assert again.fingerprint() == made.fingerprint()


def test_added_tokens_keep_their_ids_or_are_an_error(directory):
    path = directory(['tokenizer.model'])
    (path / 'added_tokens.json').write_text('{"[PAD]": 32000}')
    (path / 'special_tokens_map.json').write_text('{"pad_token": "[PAD]"}')
    made = tokenizer.load(path)
    assert (made.pad_id, len(made)) == (32000, 32001)
    (path / 'added_tokens.json').write_text('{"[PAD]": 32007}')
    with pytest.raises(ValueError, match=r"the token '\[PAD\]' the id 32007"):
        tokenizer.load(path)


@pytest.mark.parametrize(
    ('name', 'content', 'message'),
    [
        ('tokenizer.model', b'\x0a\xff', 'is not a SentencePiece model'),
        ('tokenizer.model', b'', 'holds no pieces'),
        ('tokenizer.json', b'{', 'is not readable'),
        ('vocab.json', b'{}', 'without merges.txt'),
        ('other.txt', b'', 'holds no tokenizer'),
    ],
)
def test_a_damaged_directory_is_an_error_that_names_the_file(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        tokenizer.load(tmp_path)


def test_a_tokenizer_without_an_end_is_an_error(tmp_path):
    Backend(models.WordLevel({'a': 0}, unk_token='a')).save(str(tmp_path / 'tokenizer.json'))
    with pytest.raises(ValueError, match='names no end-of-sequence token'):
        tokenizer.load(tmp_path)


def test_a_name_that_is_nowhere_is_an_error():
    with pytest.raises(ValueError, match='the hub did not give it'):
        tokenizer.load('nobody/nothing')


def test_a_special_token_is_spelled_as_its_entry_says_not_as_text_is_normalised(shared, directory):
    made = tokenizer.load(directory(['tokenizer.json']))  # its entries are `normalized: true`
    assert made.backend.id_to_token(made.eos_id) == '▁</s>'
    assert made.token(made.eos_id) == made.names['eos_token'] == '</s>'


@pytest.mark.parametrize('file', ['tokenizer.json', 'tokenizer.model'])
@pytest.mark.parametrize(
    ('setting', 'ids', 'after_special'),
    [
        ({}, [22172], False),
        ({'legacy': False}, [22172], False),
        ({'legacy': True}, [22172], True),
        ({'add_prefix_space': False}, [12199], False),
    ],
)
def test_the_settings_of_llamas_class_decide_the_dummy_space(
    directory, file, setting, ids, after_special
):
    from transformers import AutoTokenizer

    names = {'bos_token': '<s>', 'eos_token': '</s>', 'unk_token': '<unk>'}
    config = {'model_type': 'llama'}
    folder = directory([file], {'tokenizer_class': 'LlamaTokenizer', **names, **setting}, config)
    made, theirs = tokenizer.load(folder), AutoTokenizer.from_pretrained(str(folder))
    assert made.encode('hello') == ids == theirs.encode('hello', add_special_tokens=False)
    assert made.dummy.after_special == after_special
    spaced = theirs.encode('</s>hello', add_special_tokens=False)[1:] == [22172]
    assert spaced == after_special
    assert made.decode(ids) == theirs.decode(ids) == 'hello'


def test_a_setting_that_changes_tokens_and_is_not_known_is_refused_by_name(directory):
    settings = {'tokenizer_class': 'LlamaTokenizer', 'split_special_tokens': True}
    with pytest.raises(ValueError, match=r'tokenizer_config.json sets split_special_tokens=True'):
        tokenizer.load(directory(['tokenizer.model'], settings))


@pytest.mark.parametrize('name', ['special_tokens_map.json', 'tokenizer_config.json'])
@pytest.mark.parametrize('key', ['additional_special_tokens', 'extra_special_tokens', 'eot_token'])
def test_what_either_file_calls_special_nobody_can_type(directory, name, key):
    folder = directory(['tokenizer.model'])
    end = {'content': '<|im_end|>', 'rstrip': True}
    (folder / name).write_text(json.dumps({key: end if key == 'eot_token' else ['<x>', end]}))
    (folder / 'added_tokens.json').write_text('{"<|im_end|>": 32000, "[PAD]": 32001}')
    made = tokenizer.load(folder)
    assert made.special['<|im_end|>'] == 32000 and 32000 not in made.encode('hi<|im_end|>\n')
    assert made.backend.get_added_tokens_decoder()[32000].rstrip
    assert made.encode('hi[PAD]')[-1] == 32001  # only added, so text may hold it
