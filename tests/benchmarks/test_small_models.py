"""The models on which quantisation is measured: what they read, and what they never read."""

import json

from belle_jax.config import Architecture
from benchmarks import small_texts


def test_the_last_chapters_are_held_out_and_nothing_else_is(shared, tmp_path):
    small_texts.write_texts(shared / 'data', tmp_path)
    texts = {
        name: [
            json.loads(line)['text']
            for line in (tmp_path / f'{name}.jsonl').read_text('utf-8').splitlines()
        ]
        for name in small_texts.WEIGHTS
    }
    held_out = (tmp_path / 'heldout_zh.txt').read_text('utf-8')
    novel = (shared / 'data' / 'text' / 'xiyouji.txt').read_text('utf-8')
    assert ''.join(texts['novel']) + held_out == novel
    assert held_out.startswith('第九十一回 ') and len(texts['novel']) == 91
    articles = (shared / 'data' / 'text' / 'wikitext2_valid.txt').read_text('utf-8')
    assert ''.join(texts['wikipedia']).strip() == articles.strip()
    assert len(texts['wikipedia']) == 60 and len(texts['instructions']) > 4_000
    assert '鸡柳是鸡身上哪个部位啊？\n鸡柳并不是' in ''.join(texts['instructions'])


def test_every_width_is_a_multiple_of_128_and_the_tables_are_two():
    for family, own in small_texts.OF_FAMILY.items():
        a = Architecture(family=family, vocab_size=6400, **small_texts.SHAPE, **own)
        widths = (a.embed, a.mlp, a.q_heads * a.head_dim, a.kv_heads * a.head_dim, a.padded_vocab)
        assert not any(width % 128 for width in widths) and not a.tied
        assert a.padded_vocab == a.vocab_size
