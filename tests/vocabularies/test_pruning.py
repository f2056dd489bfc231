"""Fewer pieces: a corpus becomes the same ones, and the model says the same of them."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import AddedToken
from tokenizers import Tokenizer as Backend

import vocabulary_models
from belle_jax.data import tokenizer
from belle_jax.formats import huggingface
from belle_jax.vocabularies import extend, prune
from belle_jax.vocabularies.source import files_of
from belle_jax.vocabularies.vocabulary_files import TrainingPlan

FAMILIES = pytest.mark.parametrize('family', ['llama', 'bloom'])


@pytest.fixture(scope='module')
def work(tmp_path_factory, shared):
    """Models and their pruned selves, by a corpus of both languages."""
    folder = tmp_path_factory.mktemp('vocabularies')
    prose = (shared / 'data/text/xiyouji.txt').read_text('utf-8')[:20_000]
    verse = (shared / 'data/text/tinyshakespeare.txt').read_text('utf-8')[:20_000]
    rows = [{'instruction': '一加一', 'input': '', 'output': '二  👩‍🚀'}, {'text': verse}]
    (folder / 'prose.txt').write_text(prose, 'utf-8')
    (folder / 'rows.jsonl').write_text('\n'.join(map(json.dumps, rows)), 'utf-8')
    corpus = [str(folder / 'prose.txt'), str(folder / 'rows.jsonl')]
    for family in ('llama', 'bloom'):
        source = getattr(vocabulary_models, family)(folder / family, shared)
        prune(source, folder / f'{family}-small', corpus)
    return folder


def texts(work):
    prose = (work / 'prose.txt').read_text('utf-8')
    verse = json.loads((work / 'rows.jsonl').read_text('utf-8').split('\n')[1])['text']
    return [prose, verse, *prose.split('\n'), *verse.split('\n'), '二  👩‍🚀', '一加一']


@FAMILIES
def test_texts_of_the_corpus_become_the_same_pieces(work, family):
    before, after = (tokenizer.load(work / name) for name in (family, f'{family}-small'))
    report = json.loads((work / f'{family}-small' / 'vocabulary.json').read_text('utf-8'))
    old_ids = np.array(report['old_ids'])
    assert len(after) == len(old_ids) == report['tokens'] < len(before) / 2
    for continued in (False, True):
        for text in texts(work):
            ids = after.encode(text, continued=continued)
            assert old_ids[ids].tolist() == before.encode(text, continued=continued)
            assert after.decode(ids) == before.decode(old_ids[ids].tolist())
    assert [after.token(i) for i in range(len(after))] == [before.token(i) for i in old_ids]
    assert before.special.keys() == after.special.keys()
    strange = '龘 Ünïcode \x00 qzx'  # is in no text of the corpus, and is spelled in bytes
    assert after.decode(after.encode(strange)) == strange
    oracle = Backend.from_file(str(work / f'{family}-small' / 'tokenizer.json'))
    assert oracle.encode(strange, add_special_tokens=False).ids == after.encode(strange)


def test_sentencepiece_itself_says_the_same(work):
    sentencepiece = pytest.importorskip('sentencepiece')
    folder = work / 'llama-small'
    oracle = sentencepiece.SentencePieceProcessor(model_file=str(folder / 'tokenizer.model'))
    said = [*texts(work), '龘 Ünïcode']
    assert list(tokenizer.load(folder).encode_batch(said)) == oracle.encode(said)


@FAMILIES
def test_the_logits_of_what_stays_are_the_same_numbers(work, family):
    torch = pytest.importorskip('torch')
    transformers = pytest.importorskip('transformers')
    report = json.loads((work / f'{family}-small' / 'vocabulary.json').read_text('utf-8'))
    before, after = (
        transformers.AutoModelForCausalLM.from_pretrained(work / name, dtype=torch.float32)
        for name in (family, f'{family}-small')
    )
    ids = torch.tensor([tokenizer.load(work / f'{family}-small').encode('却说孙悟空 said:')])
    old_ids = torch.tensor(report['old_ids'])
    with torch.no_grad():
        small = after(ids, output_hidden_states=True)
        whole = before(old_ids[ids], output_hidden_states=True)
    for state, old in zip(small.hidden_states, whole.hidden_states, strict=True):
        assert torch.equal(state, old)
    # A product of another size may add in another order.
    torch.testing.assert_close(small.logits, whole.logits[..., old_ids], rtol=1e-6, atol=1e-6)
    count = sum(p.numel() for p in after.parameters())
    assert count == report['parameters']
    assert sum(p.numel() for p in before.parameters()) == report['parameters_before']


@FAMILIES
def test_rows_are_the_old_ones_to_the_bit(work, family):
    report = json.loads((work / f'{family}-small' / 'vocabulary.json').read_text('utf-8'))
    before, after = (
        load_file(work / name / 'model.safetensors') for name in (family, f'{family}-small')
    )
    assert before.keys() == after.keys()
    for name, array in after.items():
        old = before[name]
        old = old[report['old_ids']] if old.shape != array.shape else old
        np.testing.assert_array_equal(array, old)
    opened = huggingface.open(work / f'{family}-small')
    assert opened.architecture.vocab_size == report['tokens']


def test_ids_of_special_tokens_are_changed_wherever_they_stand(work, shared, tmp_path):
    source = vocabulary_models.bloom(tmp_path / 'bloom', shared)
    backend = Backend.from_file(str(source / 'tokenizer.json'))
    backend.add_special_tokens([AddedToken('<end>', special=True), AddedToken('<fill>')])
    backend.save(str(source / 'tokenizer.json'))
    rare = backend.token_to_id('Ġbecause')
    for name, values in (
        ('config.json', {'eos_token_id': 6400, 'pad_token_id': 6409}),
        ('generation_config.json', {'eos_token_id': [2, 6400], 'bad_words_ids': [[rare, 5]]}),
        ('tokenizer_config.json', {'eos_token': '<end>', 'pad_token': '<fill>'}),
    ):
        stored = json.loads((source / name).read_text('utf-8')) | values
        (source / name).write_text(json.dumps(stored), 'utf-8')
    prune(source, tmp_path / 'out', [str(work / 'prose.txt')])
    made = tokenizer.load(tmp_path / 'out')
    ends = len(made) - 2
    assert made.eos_id == ends and made.token(ends) == '<end>' and made.pad_id == ends + 1
    config = json.loads((tmp_path / 'out' / 'config.json').read_text())
    assert (config['eos_token_id'], config['pad_token_id']) == (ends, None)  # 6409: a spare row
    generation = json.loads((tmp_path / 'out' / 'generation_config.json').read_text())
    assert generation['eos_token_id'] == [2, ends]
    assert [made.token(i) for i in generation['bad_words_ids'][0]] == ['Ġbecause', made.token(5)]
    assert huggingface.open(tmp_path / 'out').architecture.eos_ids == (2, ends)


def test_a_vocabulary_is_extended_and_pruned_again(work, tmp_path):
    corpus = [str(work / 'prose.txt')]
    extend(work / 'llama-small', tmp_path / 'more', train=corpus, plan=TrainingPlan(2300))
    report = prune(tmp_path / 'more', tmp_path / 'out', corpus)
    before, after = (tokenizer.load(tmp_path / name) for name in ('more', 'out'))
    text = (work / 'prose.txt').read_text('utf-8')
    assert [report['old_ids'][i] for i in after.encode(text)] == before.encode(text)


def test_a_piece_needs_all_that_it_is_built_from(shared):
    """BPE of the files' own library, told to stop at each merge, passes through these."""
    folder = shared / 'data/tokenizers/zh_bpe_6400'
    files = files_of(tokenizer.load(folder))
    built = files.built('Ġcomputer')
    assert {*'Ġcomputer', 'Ġcomputer'} < built
    state = json.loads((folder / 'tokenizer.json').read_text('utf-8'))
    vocab = state['model']['vocab']
    merges = [m for m in state['model']['merges'] if {*m, ''.join(m)} <= built]
    state['model'] |= {'vocab': {p: vocab[p] for p in built if p in vocab}, 'merges': merges}
    state['added_tokens'] = []
    small = Backend.from_str(json.dumps(state))
    assert small.encode(' computer').tokens == ['Ġcomputer']
    for piece in built - {*'Ġcomputer'} - {'Ġcomputer'}:
        state['model']['merges'] = [m for m in merges if ''.join(m) != piece]
        assert Backend.from_str(json.dumps(state)).encode(' computer').tokens != ['Ġcomputer']


def test_a_mistake_is_one_sentence_and_nothing_is_written(work, tmp_path):
    (tmp_path / 'empty.txt').write_text('\n')
    for source, corpus, sentence in (
        (work / 'llama', [str(tmp_path / 'empty.txt')], 'has no text'),
        (work / 'llama', [str(tmp_path / 'none.txt')], 'is not a file here'),
        (work, [str(work / 'prose.txt')], 'config.json is missing'),
    ):
        with pytest.raises(ValueError, match=sentence) as caught:
            prune(source, tmp_path / 'out', corpus)
        assert '\n' not in str(caught.value)
        assert not (tmp_path / 'out').exists()
    with pytest.raises(ValueError, match='is there already'):
        prune(work / 'llama', work / 'bloom', [str(work / 'prose.txt')])
