"""Tokens a second of greedy decoding, ours and transformers', on the same machine in the same run.

    python -m benchmarks.decode                               # CPU: 15M parameters, float32
    python -m benchmarks.decode --size=7b --dtype=bfloat16    # a GPU

Each side decodes alone, in turn, several times; the best time of each counts, because whatever else
a machine does can only add to it. Weights are random: speed does not depend on them. Without torch
ours alone is measured. With --bits=4 the same shape with packed products, in groups of 32, takes
turns with them. With --tokenizer=DIRECTORY the text of a long answer is streamed as well,
token by token, and compared with decoding all of it at every eighth.
"""

import json
import sys
import time
from typing import Any

from absl import app, flags

from benchmarks.figures import write

FAMILIES = flags.DEFINE_multi_enum('family', ['llama', 'bloom'], ['llama', 'bloom'], 'Which.')
SIZE = flags.DEFINE_enum('size', '15m', ['15m', '7b'], 'Parameters.')
DTYPE = flags.DEFINE_enum(
    'dtype', 'float32', ['float32', 'bfloat16'], 'Of weights and activations.'
)
BATCHES = flags.DEFINE_multi_integer('batch', [1, 8], 'Prompts at a time.')
PROMPT = flags.DEFINE_integer('prompt', 32, 'Tokens of each prompt.')
NEW = flags.DEFINE_integer('new', 192, 'Tokens of each answer.')
REPEATS = flags.DEFINE_integer('repeats', 5, 'Runs of each side; the best counts.')
BITS = flags.DEFINE_integer('bits', 0, 'Of a packed model beside; 0: none.')
TRANSFORMERS = flags.DEFINE_bool('transformers', True, 'Compare with transformers and torch.')
TOKENIZER = flags.DEFINE_string('tokenizer', '', 'Streams text with the one of a directory.')
OUTPUT = flags.DEFINE_string('output', 'runs/benchmarks/decode.json', 'Where the figures go.')

# llama2.c's 15M: 288 wide, 6 layers, 32,000 tokens, tied. BLOOM of the same width.
SHAPES_15M = {'vocab_size': 32_000, 'embed': 288, 'layers': 6, 'q_heads': 6, 'tied': True}
MLP_15M = {'llama': 768, 'bloom': 4 * 288}
PRESETS_7B = {'llama': 'llama_7b', 'bloom': 'bloom_7b1'}


def architecture(family: str):
    """The shape that is measured; no token ends an answer."""
    import dataclasses

    from belle_jax.config import PRESETS, Architecture

    if SIZE.value == '7b':
        return dataclasses.replace(PRESETS[PRESETS_7B[family]], eos_ids=())
    return Architecture(family=family, mlp=MLP_15M[family], **SHAPES_15M)


def ours(family: str, bits: int = 0):
    """A function that answers a batch of prompts, and the number of parameters."""
    import jax
    import jax.numpy as jnp

    from belle_jax import models
    from belle_jax.decoding import Engine, Sampling
    from belle_jax.families import Packing

    shape = architecture(family)
    dense = models.Blueprint(shape)
    blueprint = models.Blueprint(shape, packing=Packing(bits, group_size=32) if bits else None)
    params = models.initialise(dense, jax.random.key(0), dtype=DTYPE.value)
    params = {name: params[name] for name in models.specs(blueprint).keys() & params.keys()}
    for name, spec in models.specs(blueprint).items():
        if name.endswith('.words'):
            params[name] = jax.random.randint(jax.random.key(0), spec.shape, 0, 2**31 - 1, 'int32')
        elif name.endswith('.scales'):
            params[name] = jnp.full(spec.shape, 0.003, spec.dtype)
    engine = Engine(
        models.build(blueprint, params, dtype=DTYPE.value), batch_size=max(BATCHES.value)
    )
    settings = Sampling(max_new_tokens=NEW.value)

    def generate(prompts: list[list[int]]) -> None:
        for completion in engine.generate(prompts, settings):
            assert completion.completion_tokens == NEW.value

    return generate, models.count_parameters(dense)


def theirs(family: str):
    """The same through `generate`; None without torch."""
    try:
        import torch
        import transformers
    except ImportError:
        return None
    from belle_jax.formats.huggingface import architecture_to_hf_config

    shape = architecture(family)
    values = architecture_to_hf_config(shape, DTYPE.value)
    kind = 'Llama' if family == 'llama' else 'Bloom'
    config = getattr(transformers, f'{kind}Config').from_dict(values)
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    with torch.device(device):
        model = getattr(transformers, f'{kind}ForCausalLM')(config)
    model = model.to(getattr(torch, DTYPE.value)).eval()
    model.generation_config.eos_token_id = None
    settings = transformers.GenerationConfig(
        do_sample=False,
        max_new_tokens=NEW.value,
        min_new_tokens=NEW.value,
        pad_token_id=0,
        eos_token_id=None,
    )

    def generate(prompts: list[list[int]]) -> None:
        tokens = torch.tensor(prompts, device=device)
        with torch.inference_mode():
            made = model.generate(
                tokens, attention_mask=torch.ones_like(tokens), generation_config=settings
            )
        assert made.shape[1] == PROMPT.value + NEW.value

    return generate


def seconds(function, prompts) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    function(prompts)
    return time.perf_counter() - began


def measure(family: str) -> list[dict[str, Any]]:
    """One row of figures for each batch size."""
    import numpy as np

    mine, parameters = ours(family)
    other = theirs(family) if TRANSFORMERS.value else None
    sides = [('ours', mine)] + ([('transformers', other)] if other else [])
    sides += [(f'ours in {BITS.value} bits', ours(family, BITS.value)[0])] if BITS.value else []
    rows = []
    for batch in BATCHES.value:
        rng = np.random.default_rng(0)
        prompts = rng.integers(3, 30_000, (batch, PROMPT.value)).tolist()
        best = {name: float('inf') for name, _ in sides}
        for _, function in sides:
            function(prompts)  # compiles, and fills caches
        for _ in range(REPEATS.value):
            for name, function in sides:
                best[name] = min(best[name], seconds(function, prompts))
        speed = {name: round(batch * NEW.value / time, 1) for name, time in best.items()}
        row = {'family': family, 'parameters': parameters, 'batch': batch, 'tokens_per_s': speed}
        if 'transformers' in speed:
            row['ratio'] = round(speed['ours'] / speed['transformers'], 3)
        print(json.dumps(row), file=sys.stderr, flush=True)
        rows.append(row)
    return rows


def streamed(directory: str) -> dict[str, Any]:
    """Seconds to make the text of 16,000 tokens as they come."""
    from belle_jax.data import tokenizer
    from belle_jax.decoding.text import TextStream

    made = tokenizer.load(directory)
    tokens = made.encode('今天天气很好。Hello world, this is streamed text.\n' * 4000)[:16_000]

    def stream(tokens) -> None:
        text = TextStream(made)
        for token in tokens:
            text.feed([token])

    def whole(tokens) -> None:
        for end in range(8, len(tokens) + 1, 8):
            made.decode(tokens[:end])

    best = min(seconds(stream, tokens) for _ in range(REPEATS.value))
    other = min(seconds(whole, tokens) for _ in range(2))
    return {'tokens': len(tokens), 'seconds': round(best, 4), 'times_whole': round(best / other, 4)}


def main(argv: list[str]) -> None:
    """Measures, prints JSON, and writes it to --output."""
    del argv
    import os

    os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')  # torch needs room as well

    write(
        OUTPUT.value,
        'decode',
        dtype=DTYPE.value,
        size=SIZE.value,
        prompt_tokens=PROMPT.value,
        new_tokens=NEW.value,
        rows=[row for family in FAMILIES.value for row in measure(family)],
        **({'streamed_text': streamed(TOKENIZER.value)} if TOKENIZER.value else {}),
    )


if __name__ == '__main__':
    app.run(main)
