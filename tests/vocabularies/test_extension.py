"""More pieces: old ids and rows as they were, new ones reachable, and what texts cost by them."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

import as_meta
import vocabulary_models
from belle_jax.data import sentencepiece_model, tokenizer
from belle_jax.data.sentencepiece_model import NORMAL, ScoredPiece
from belle_jax.formats import huggingface, meta
from belle_jax.vocabularies import comparison, extend
from belle_jax.vocabularies.source import files_of
from belle_jax.vocabularies.vocabulary_files import TrainingPlan

sentencepiece = pytest.importorskip('sentencepiece')

EMBEDDING = {'llama': 'model.embed_tokens.weight', 'bloom': 'transformer.word_embeddings.weight'}


@pytest.fixture(scope='module')
def work(tmp_path_factory, shared):
    """Models, and stretches of texts."""
    folder = tmp_path_factory.mktemp('vocabularies')
    vocabulary_models.llama(folder / 'llama', shared)
    vocabulary_models.small_llama(folder / 'small', shared)
    vocabulary_models.bloom(folder / 'bloom', shared)
    for name, file in (('zh.txt', 'xiyouji.txt'), ('en.txt', 'tinyshakespeare.txt')):
        text = (shared / 'data/text' / file).read_text('utf-8')[30_000:60_000]
        (folder / name).write_text(text, 'utf-8')
    return folder


@pytest.fixture(scope='module')
def chinese(work, shared):
    """LLaMA with the pieces of a Chinese model."""
    add = shared / 'data/tokenizers/chinese_sp.model'
    texts = [str(work / name) for name in ('zh.txt', 'en.txt')]
    return extend(work / 'llama', work / 'chinese', add=add, report_texts=texts)


def golden(shared):
    folder = shared / 'data' / 'tokenizers'
    return (folder / 'llama_golden.inp').read_text('utf-8').split('\n__ggml_vocab_test__\n')


def test_llama_with_the_chinese_model_has_its_old_pieces_and_17953_more(work, shared, chinese):
    before = sentencepiece_model.read_model(work / 'llama' / 'tokenizer.model').pieces
    after = sentencepiece_model.read_model(work / 'chinese' / 'tokenizer.model').pieces
    assert (len(before), len(after)) == (32_000, 49_953)
    assert after[: len(before)] == before
    scores = [piece.score for piece in after[len(before) :]]
    assert max(scores) < min(piece.score for piece in before)
    assert len(set(scores)) == len(scores)
    assert chinese == json.loads((work / 'chinese' / 'vocabulary.json').read_text('utf-8'))
    assert (chinese['first_new_id'], chinese['tokens'], chinese['rows']) == (32_000, 49_953, 49_953)
    config = json.loads((work / 'chinese' / 'config.json').read_text())
    assert (config['vocab_size'], config['bos_token_id'], config['eos_token_id']) == (49_953, 1, 2)


def test_new_rows_are_the_means_of_those_that_spelled_the_piece(work, chinese):
    before, after = (load_file(work / n / 'model.safetensors') for n in ('llama', 'chinese'))
    oracle = sentencepiece.SentencePieceProcessor(
        model_file=str(work / 'llama' / 'tokenizer.model'), add_bos=False
    )
    pieces = sentencepiece_model.read_model(work / 'chinese' / 'tokenizer.model').pieces
    for name in ('model.embed_tokens.weight', 'lm_head.weight'):
        old, new = before.pop(name), after.pop(name)
        np.testing.assert_array_equal(new[:32_000], old)
        for index in (32_000, 32_777, 41_003, 49_952):
            # In front of a text stands one space, which is SentencePiece's own.
            text = pieces[index].text
            ids = oracle.encode(text[1:] if text[0] == '▁' else '\n' + text)
            ids = ids if text[0] == '▁' else ids[2:]
            assert ''.join(oracle.id_to_piece(ids)) or ids
            np.testing.assert_allclose(new[index], old[ids].mean(0), rtol=1e-5, atol=1e-6)
    assert before.keys() == after.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array)


def test_both_files_say_the_same_tokens_and_round_trip(work, shared, chinese):
    folder = work / 'chinese'
    assert chinese['notes'] == []
    oracle = sentencepiece.SentencePieceProcessor(model_file=str(folder / 'tokenizer.model'))
    listed = Backend.from_file(str(folder / 'tokenizer.json'))
    text = (shared / 'data/text/xiyouji.txt').read_text('utf-8')
    lines = text.split('\n') + golden(shared)
    expected = oracle.encode(lines)
    assert [e.ids for e in listed.encode_batch(lines, add_special_tokens=False)] == expected
    made = tokenizer.load(folder)
    assert list(made.encode_batch(lines)) == expected
    assert [made.decode(ids) for ids in expected] == lines
    assert made.decode(made.encode(text)) == text
    assert made.encode('道', bos=True)[0] == 1


def test_transformers_reads_the_new_vocabulary(work, chinese):
    transformers = pytest.importorskip('transformers')
    theirs = transformers.AutoTokenizer.from_pretrained(work / 'chinese')
    text = '孙悟空 said: 「你好」\n  ok'
    made = tokenizer.load(work / 'chinese')
    assert theirs(text)['input_ids'] == made.encode(text, bos=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(work / 'chinese')
    assert model.get_input_embeddings().weight.shape[0] == 49_953


def test_the_report_counts_tokens_and_names_changed_lines(work, shared, chinese):
    zh, en = (chinese['texts'][str(work / name)] for name in ('zh.txt', 'en.txt'))
    before = sentencepiece.SentencePieceProcessor(
        model_file=str(shared / 'data/tokenizers/llama_tokenizer.model')
    )
    lines = [line for line in (work / 'zh.txt').read_text('utf-8').split('\n') if line.strip()]
    assert zh['tokens_before'] == sum(map(len, before.encode(lines)))
    assert zh['characters'] == sum(map(len, lines)) and zh['lines'] == len(lines)
    assert (
        zh['tokens_before'] / zh['characters'] > 1.6 > 0.9 > zh['tokens_after'] / zh['characters']
    )
    assert en['ascii_changed'] == en['changed'] == 1 and len(en['changed_lines']) == 1
    compared = comparison.compare(
        tokenizer.load(work / 'llama'), tokenizer.load(work / 'chinese'), golden(shared)
    )
    assert (compared['lines'], compared['changed']) == (47, 13)
    assert all(line['pieces'] for line in compared['changed_lines'])
    assert {'line': ' discards', 'pieces': ['▁dis', 'card']} not in compared['changed_lines']


def test_pieces_that_are_never_reached_are_named(work, chinese):
    oracle = sentencepiece.SentencePieceProcessor(
        model_file=str(work / 'chinese' / 'tokenizer.model')
    )
    lost = set(chinese['unreachable'])
    assert 300 < len(lost) < 400
    for index in range(32_000, 49_953, 17):
        piece = oracle.id_to_piece(index)
        text = piece[1:] if piece[0] == '▁' else '\n' + piece
        assert (oracle.encode(text)[-1] == index) == (piece not in lost), piece


def test_without_pieces_of_ascii_no_line_of_ascii_changes(work, shared, tmp_path):
    add = shared / 'data/tokenizers/chinese_sp.model'
    report = extend(work / 'llama', tmp_path / 'out', add=add, keep_ascii=True)
    assert 17_000 < report['tokens'] - 32_000 < 17_953
    before, after = tokenizer.load(work / 'llama'), tokenizer.load(tmp_path / 'out')
    lines = golden(shared)
    for name in ('tinyshakespeare.txt', 'wikitext2_valid.txt'):
        lines += (shared / 'data/text' / name).read_text('utf-8')[:100_000].split('\n')
    lines = [line for line in lines if line.isascii()]
    assert len(lines) > 3_000
    assert list(before.encode_batch(lines)) == list(after.encode_batch(lines))


def test_tokens_that_were_added_keep_their_ids(work, shared, tmp_path):
    source = vocabulary_models.small_llama(tmp_path / 'small', shared, spare=2)
    pad = len(tokenizer.load(source))
    (source / 'added_tokens.json').write_text(json.dumps({'[PAD]': pad, '<|end|>': pad + 1}))
    settings = json.loads((source / 'tokenizer_config.json').read_text())
    settings['additional_special_tokens'] = ['<|end|>']
    (source / 'tokenizer_config.json').write_text(json.dumps(settings))
    report = extend(source, tmp_path / 'out', train=[str(work / 'zh.txt')], plan=TrainingPlan(2700))
    assert report['first_new_id'] == pad + 2 and report['notes'] == []
    before, after = tokenizer.load(source), tokenizer.load(tmp_path / 'out')
    assert after.token(pad) == '[PAD]' and after.special['<|end|>'] == pad + 1
    assert after.encode('a[PAD]b<|end|>') == before.encode('a[PAD]b<|end|>')
    assert len(after.encode('孙悟空')) < len(before.encode('孙悟空'))


@pytest.mark.parametrize('plan', [TrainingPlan(2700), TrainingPlan(2500, 'unigram', 0.99)])
def test_sentencepiece_learns_pieces_from_a_text(work, plan, tmp_path):
    text = str(work / 'zh.txt')
    report = extend(work / 'small', tmp_path / 'out', train=[text], plan=plan)
    counts = report['texts'][text]
    assert 1_000 < report['tokens'] - report['first_new_id'] < 2_700
    assert report['notes'] == [] and (tmp_path / 'out' / 'tokenizer.json').is_file()
    assert counts['tokens_after'] < 0.65 * counts['tokens_before']
    made = tokenizer.load(tmp_path / 'out')
    assert made.decode(made.encode('却说孙悟空')) == '却说孙悟空'


def test_a_model_whose_pieces_share_scores_gets_no_list_of_merges(work, shared, tmp_path):
    tied = [ScoredPiece(text, 0.0, NORMAL) for text in ('空悟', '悟空', '孙悟')]
    source = vocabulary_models.small_llama(tmp_path / 'tied', shared, more=tied)
    report = extend(source, tmp_path / 'out', train=[str(work / 'zh.txt')], plan=TrainingPlan(2700))
    assert not (tmp_path / 'out' / 'tokenizer.json').exists()
    assert 'share scores' in report['notes'][0]
    oracle = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / 'out/tokenizer.model'))
    made = tokenizer.load(tmp_path / 'out')
    assert made.encode('孙悟空悟') == oracle.encode('孙悟空悟')


# --- byte-level BPE -------------------------------------------------------------------------------


@pytest.mark.parametrize('keep_ascii', [False, True])
def test_byte_level_bpe_goes_on_learning_where_it_ended(work, keep_ascii, tmp_path):
    texts = [str(work / name) for name in ('zh.txt', 'en.txt')]
    report = extend(
        work / 'bloom', tmp_path / 'out', train=texts, plan=TrainingPlan(400), keep_ascii=keep_ascii
    )
    zh, en = (report['texts'][text] for text in texts)
    # The new ones take the place of the ten spare rows first.
    assert (report['first_new_id'], report['rows']) == (6_400, 6_800)
    assert report['unreachable'] == []
    assert zh['tokens_after'] < 0.9 * zh['tokens_before']
    assert (en['changed'] == 0) == keep_ascii
    before, after = (
        json.loads((f / 'tokenizer.json').read_text('utf-8'))
        for f in (work / 'bloom', tmp_path / 'out')
    )
    merges = before['model']['merges']
    assert after['model']['merges'][: len(merges)] == merges
    assert before['model']['vocab'].items() <= after['model']['vocab'].items()
    assert {**before, 'model': 0} == {**after, 'model': 0}
    made = tokenizer.load(tmp_path / 'out')
    text = (work / 'zh.txt').read_text('utf-8')
    assert made.decode(made.encode(text)) == text
    table = load_file(tmp_path / 'out' / 'model.safetensors')[EMBEDDING['bloom']]
    old = load_file(work / 'bloom' / 'model.safetensors')[EMBEDDING['bloom']]
    np.testing.assert_array_equal(table[:6_400], old[:6_400])
    piece, words = made.decode([6_500]), tokenizer.load(work / 'bloom')
    if '\ufffd' not in piece:
        np.testing.assert_allclose(
            table[6_500], old[words.encode(piece)].mean(0), rtol=1e-5, atol=1e-6
        )


def test_a_second_byte_level_tokenizer_gives_pieces_and_merges(work, tmp_path):
    second = Backend(models.BPE())
    second.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    learning = trainers.BpeTrainer(
        vocab_size=2_000, initial_alphabet=alphabet, special_tokens=['<sep>'], show_progress=False
    )
    second.train([str(work / 'zh.txt')], learning)
    second.save(str(tmp_path / 'second.json'))
    report = extend(work / 'bloom', tmp_path / 'out', add=tmp_path / 'second.json')
    before, after = tokenizer.load(work / 'bloom'), tokenizer.load(tmp_path / 'out')
    old = before.backend.get_vocab()
    new = [p for p, _ in sorted(second.get_vocab().items(), key=lambda item: item[1])]
    new = [piece for piece in new if piece not in old and piece != '<sep>']
    assert [after.token(i) for i in range(6_400, report['tokens'])] == new
    spelled = files_of(after).spelled(new)
    lost = {piece for piece, ids in zip(new, spelled) if ids != [after.backend.token_to_id(piece)]}
    said = {decoders.ByteLevel().decode([piece]) for piece in lost}  # as people read them
    assert said == set(report['unreachable']) and len(lost) < len(new)
    lines = (work / 'zh.txt').read_text('utf-8').split('\n')
    assert {i for ids in after.encode_batch(lines) for i in ids if i >= 6_400}.isdisjoint(
        after.backend.token_to_id(piece) for piece in lost
    )
    assert sum(map(len, after.encode_batch(lines))) < sum(map(len, before.encode_batch(lines)))


def test_llama_3s_ranks_are_extended_as_the_list_that_says_them(work, tmp_path):
    whole = as_meta.weights('float32')
    as_meta.publish(tmp_path / 'meta', as_meta.cut(whole, 1, 0), as_meta.LLAMA_3, as_meta.ranks())
    source = huggingface.write(meta.open(tmp_path / 'meta'), tmp_path / 'model')
    report = extend(source, tmp_path / 'out', train=[str(work / 'zh.txt')], plan=TrainingPlan(99))
    assert 'tokenizer.model left out' in report['notes'][0] and report['unreachable'] == []
    before, after = tokenizer.load(source), tokenizer.load(tmp_path / 'out')
    assert before.special == after.special and before.eos_id == after.eos_id
    text = 'the <|eot_id|> book'
    assert before.encode(text, bos=True) == after.encode(text, bos=True)
    assert max(after.encode('行者道')) >= len(before)


# --- what cannot be done --------------------------------------------------------------------------


def refused(work, tmp_path, shared, what):
    """Arguments that are a mistake, and what is said of it."""
    kinds = shared / 'data' / 'tokenizers'
    empty = tmp_path / 'empty.txt'
    empty.write_text(' \n\n')
    run = tmp_path / 'run'
    (run / 'checkpoints').mkdir(parents=True)
    (run / 'config.json').write_text('{}')
    short = vocabulary_models.small_llama(tmp_path / 'short', shared)
    added = {'[PAD]': len(tokenizer.load(short))}
    (short / 'added_tokens.json').write_text(json.dumps(added))
    named, beyond = tmp_path / 'named', added['[PAD]']
    shutil.copytree(work / 'small', named)
    config = json.loads((named / 'config.json').read_text()) | {'pad_token_id': beyond}
    (named / 'config.json').write_text(json.dumps(config))
    chinese = kinds / 'chinese_sp.model'
    return {
        'another kind': (work / 'small', {'add': kinds / 'zh_bpe_6400'}, 'not a SentencePiece'),
        'of bytes': (work / 'bloom', {'add': chinese}, 'not the tokenizer.json of a byte-level'),
        'nothing new': (work / 'small', {'add': work / 'small'}, 'no piece that'),
        'no file': (work / 'small', {'add': tmp_path / 'none.model'}, 'not a SentencePiece model'),
        'a run': (run, {'add': chinese}, 'to_hf'),
        'more ids than rows': (short, {'add': chinese}, f'{beyond + 1:,} ids.*{beyond:,} rows'),
        'no text': (work / 'small', {'train': [str(empty)]}, 'has no text'),
        'an id beyond': (named, {'add': chinese}, f'pad_token_id of config.json is {beyond}'),
        'too small': (
            work / 'small',
            {'train': [str(work / 'zh.txt')], 'plan': TrainingPlan(300)},
            '--size=300: ',
        ),
    }[what]


@pytest.mark.parametrize(
    'what',
    [
        *('another kind', 'of bytes', 'nothing new', 'no file', 'a run', 'more ids than rows'),
        *('no text', 'an id beyond', 'too small'),
    ],
)
def test_a_mistake_is_one_sentence_and_nothing_is_written(work, tmp_path, shared, what):
    source, arguments, sentence = refused(work, tmp_path, shared, what)
    with pytest.raises(ValueError, match=sentence) as caught:
        extend(source, tmp_path / 'out', **arguments)
    assert '\n' not in str(caught.value)
    assert not (tmp_path / 'out').exists() and not list(tmp_path.glob('.*'))


def test_a_target_that_is_there_is_left_alone(work, shared):
    with pytest.raises(ValueError, match='is there already'):
        extend(work / 'small', work / 'bloom', add=shared / 'data/tokenizers/chinese_sp.model')
