"""Measures a model.

    belle-jax evaluate perplexity --model=runs/sft --text=wikitext2 --output=perplexity.json

--model is a run directory, one of its checkpoints, a Hugging Face directory or a hub name. --text
is wikitext2, ptb or c4, as the papers on quantisation take them, which needs the hub or what
`datasets` has kept of it; or a file: plain text, or rows as training reads them. The text is
tokenised in one piece and cut into windows of --seq_len tokens, in each of which every token but
the first is foretold; what is left over is dropped. With --stride windows overlap, and each token
is foretold once, from at least seq_len - stride tokens before it.
"""

import dataclasses
import math
import sys
from pathlib import Path

from absl import flags

from belle_jax import cli

MODEL = flags.DEFINE_string(
    'model', None, 'Run directory, checkpoint, Hugging Face directory or hub name.'
)
TEXT = flags.DEFINE_string('text', None, 'wikitext2, ptb, c4, or a file.')
SEQ_LEN = flags.DEFINE_integer(
    'seq_len', None, "Tokens of a window (default 2048, or the model's context if that is less)."
)
STRIDE = flags.DEFINE_integer('stride', 0, 'Tokens between two windows; 0: side by side.')
DTYPE = flags.DEFINE_enum(
    'dtype', 'float32', ['float32', 'bfloat16'], 'Of weights and activations.'
)
BATCH_SIZE = flags.DEFINE_integer('batch_size', 4, 'Windows at a time.', lower_bound=1)
DEVICES = flags.DEFINE_integer('devices', 1, 'Split each weight over that many devices.')
OUTPUT = flags.DEFINE_string('output', None, 'JSON file; by default only printed.')


def main(action: str) -> str:
    """Measures, writes --output, and returns what it came to."""
    del action  # there is one
    from belle_jax.data import corpora, marked_text
    from belle_jax.decoding import assistant, perplexity
    from belle_jax.disk import distinct
    from belle_jax.json_files import write_json

    model, source = str(MODEL.value), str(TEXT.value)
    if OUTPUT.value:
        distinct({'--text': source}, {'--output': OUTPUT.value})
    text = corpora.text(source)
    voice = assistant.voice(model)
    tokens = marked_text.encode(voice.tokenizer, text)
    share = len(tokens) / len(text.encode())
    decoder = assistant.decoder(model, voice, dtype=DTYPE.value, devices=DEVICES.value)
    seq_len = SEQ_LEN.value
    if seq_len is None and (seq_len := perplexity.window(decoder)) < perplexity.SEQ_LEN:
        print(f"--seq_len={seq_len}: the model's context.", file=sys.stderr)
    if corpus := corpora.CORPORA.get(source):
        tokens = tokens[: corpus.windows and corpus.windows * seq_len]
    found = perplexity.perplexity(
        decoder, tokens, seq_len, STRIDE.value, batch_size=BATCH_SIZE.value
    )
    result = {
        'model': model,
        'step': voice.step,
        'text': source,
        'dtype': DTYPE.value,
        'perplexity': found.value,
        **dataclasses.asdict(found),
        'bits_per_byte': found.loss / math.log(2) * share,
    }
    said = (
        f'perplexity {found.value:,.4f} ({found.loss:.5f} nats a token, '
        f'{result["bits_per_byte"]:.4f} bits a byte) on {found.tokens:,} tokens in '
        f'{found.windows:,} windows of {found.seq_len:,}'
    )
    if OUTPUT.value:
        Path(OUTPUT.value).parent.mkdir(parents=True, exist_ok=True)
        write_json(Path(OUTPUT.value), result)
        said += f'\nThe figures are in {OUTPUT.value}'
    return said


if __name__ == '__main__':
    cli.run(main, required=('model', 'text'), actions=('perplexity',))
