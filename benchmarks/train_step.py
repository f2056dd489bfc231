"""A training step of ours against transformers + torch, on the same machine in the same run.

    python -m benchmarks.train_step                     a CPU: 15M parameters, float32
    python -m benchmarks.train_step --shape=7b --dtype=bfloat16 --seq_lens=2048,4096    a GPU
    python -m benchmarks.train_step --shape=7b --dtype=bfloat16 --seq_lens=1024 --way=lora

Both sides do the same work from random weights on random tokens: forward, backward, clipping,
AdamW; with --way=lora adapters of rank 8 of all products alone, theirs by peft (int8, nf4, 8bit and
offload are ours alone). A step's time is the median of --repeats, after a warm-up; the two take
turns, so that a machine that slows down slows both. On a GPU the largest batch that fits is found
by doubling; ours also says the share of the chip's peak that it uses (the formula is in
belle_jax/training/metrics.py). Prints JSON.
"""

import gc
import json
import math
import os
import statistics
import sys
import time
from typing import Any

from absl import app, flags

FAMILIES = flags.DEFINE_list('families', ['llama', 'bloom'], 'Which.')
SHAPE = flags.DEFINE_enum('shape', '15m', ['15m', '7b'], 'How large.')
DTYPE = flags.DEFINE_enum('dtype', 'float32', ['float32', 'bfloat16'], 'Of activations.')
SEQ_LENS = flags.DEFINE_list('seq_lens', ['256'], 'Tokens a row.')
BATCH = flags.DEFINE_integer('batch', 0, 'Rows; 0: 8 on a CPU, the most that fit on a GPU.')
WAY = flags.DEFINE_enum('way', 'full', ['full', 'offload', '8bit', 'lora', 'int8', 'nf4'], 'How.')
REPEATS = flags.DEFINE_integer('repeats', 5, 'Timed steps of each.')
OUTPUT = flags.DEFINE_string('output', '', 'Also write the JSON here.')
THEIRS = flags.DEFINE_bool('torch', True, 'Also time transformers + torch.')

ADAPTED, RANK = ('lora', 'int8', 'nf4'), 8


def main(_: list[str]) -> None:
    """Measures every family and length."""
    # Memory that one side lets go must be free for the other.
    os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')
    os.environ.setdefault('XLA_PYTHON_CLIENT_ALLOCATOR', 'platform')
    import jax

    device = jax.devices()[0]
    results = []
    for family in FAMILIES.value:
        for length in map(int, SEQ_LENS.value):
            if device.platform == 'cpu' or BATCH.value:
                results.append(in_turns(family, length, BATCH.value or 8))
            else:
                results.append(largest_of_each(family, length))
            print(json.dumps(results[-1]), file=sys.stderr)
    facts = {
        'benchmark': 'train_step',
        'device': device.device_kind,
        'cpus': len(os.sched_getaffinity(0)),
        'jax': jax.__version__,
        'shape': SHAPE.value,
        'dtype': DTYPE.value,
        'way': WAY.value,
        'results': results,
    }
    text = json.dumps(facts, indent=2)
    if OUTPUT.value:
        with open(OUTPUT.value, 'w', encoding='utf-8') as out:
            out.write(text + '\n')
    print(text)


def architecture(family: str):
    """15M parameters, or the published 7B shape."""
    from belle_jax import config

    if SHAPE.value == '7b':
        return config.PRESETS['llama_7b' if family == 'llama' else 'bloom_7b1']
    return config.Architecture(
        family=family,
        vocab_size=6144 if family == 'llama' else 8192,
        embed=384,
        layers=6 if family == 'llama' else 7,
        q_heads=6,
        mlp=1024 if family == 'llama' else 1536,
        max_position=2048,
        tied=family == 'bloom',
    )


def in_turns(family: str, length: int, rows: int) -> dict:
    """Times of a step of `rows` rows, ours and theirs in turns."""
    sides = {name: make(family, length, rows) for name, make in makers().items()}
    times: dict[str, list[float]] = {name: [] for name in sides}
    for step in sides.values():
        step()
    for _ in range(REPEATS.value):
        for name, step in sides.items():
            times[name].append(seconds(step))
    result: dict[str, Any] = {'family': family, 'seq_len': length, 'rows': rows}
    result |= {name: figures(family, length, rows, t) for name, t in times.items()}
    if 'torch' in times:
        pairs = zip(times['ours'], times['torch'], strict=True)
        result['time_ratio'] = round(statistics.median(a / b for a, b in pairs), 3)
    return result


def largest_of_each(family: str, length: int) -> dict:
    """Each side alone on the device, with the most rows that fit, found by doubling."""
    result: dict[str, Any] = {'family': family, 'seq_len': length}
    for name, make in makers().items():
        rows = 1
        while True:
            try:
                step = make(family, length, rows)
                step()
                times = [seconds(step) for _ in range(REPEATS.value)]
            except Exception as error:
                if 'RESOURCE_EXHAUSTED' not in str(error) and 'out of memory' not in str(error):
                    raise
                break
            finally:
                step = None
                gc.collect()
                empty_torch_cache()
            result[name] = figures(family, length, rows, times)
            rows *= 2
        result.setdefault(name, 'one row does not fit')
    if all(isinstance(result.get(name), dict) for name in ('ours', 'torch')):
        ours, theirs = (result[n]['tokens_per_second'] for n in ('ours', 'torch'))
        result['speed_ratio'] = round(ours / theirs, 3)
    return result


def makers() -> dict[str, Any]:
    """What is measured, by name."""
    theirs = THEIRS.value and WAY.value in ('full', 'lora')
    return {'ours': our_step} | ({'torch': their_step} if theirs else {})


def seconds(step: Any) -> float:
    """Of one step."""
    began = time.perf_counter()
    step()
    return time.perf_counter() - began


def figures(family: str, length: int, rows: int, times: list[float]) -> dict[str, Any]:
    """The median time, tokens a second, and the share of the peak where that is known."""
    from belle_jax import config, models
    from belle_jax.training.metrics import peak_flops, training_flops_per_token

    median = statistics.median(times)
    rate = rows * length / median
    found = {'rows': rows, 'seconds': round(median, 4), 'tokens_per_second': round(rate)}
    if peak := peak_flops():
        a = architecture(family)
        adapter = config.Adapter(rank=RANK).low_rank(a) if WAY.value in ADAPTED else None
        specs = models.specs(models.Blueprint(a, adapter=adapter)).items()
        sizes = {n: math.prod(s.shape) for n, s in specs if not adapter or s.part == 'adapter'}
        flops = training_flops_per_token(a, sizes, length)
        found['flop_utilisation'] = round(rate * flops / peak, 4)
    return found


def empty_torch_cache() -> None:
    """Gives back what torch keeps of the device's memory."""
    if THEIRS.value:
        import torch

        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def our_step(family: str, length: int, rows: int):
    """A function that does one step."""
    import jax
    import numpy as np

    from belle_jax import config
    from belle_jax.training.setup import Setup, lay_out

    a = architecture(family)
    small = SHAPE.value == '15m'
    execution: dict[str, Any] = {'remat': 'none' if small else 'block', 'scan': not small}
    if WAY.value in ADAPTED:
        execution['frozen'] = DTYPE.value if WAY.value == 'lora' else WAY.value
    moments: dict[str, Any] = {'8bit': {'moment_dtype': '8bit'}, 'offload': {'offload': True}}
    run_of = config.Run(
        model=config.Model(architecture=a, dtype=DTYPE.value, **execution),
        data=config.Data(seq_len=length),
        batch=config.Batch(rows),
        optim=config.Optim(learning_rate=1e-4, weight_decay=0.01, **moments.get(WAY.value, {})),
        adapter=config.Adapter(rank=RANK if WAY.value in ADAPTED else 0),
    )
    setup = Setup(run_of, lay_out(run_of, a, jax.devices()[:1]), 1000)
    state = [setup.state({name: random(spec) for name, spec in held(setup).items()})]
    tokens = np.random.default_rng(0).integers(0, a.vocab_size, (rows, length), np.int32)
    batch = {
        'tokens': tokens,
        'targets': np.roll(tokens, -1, 1),
        'weights': np.ones(tokens.shape, np.float32),
        'segment_ids': np.ones_like(tokens),
        'positions': np.broadcast_to(np.arange(length, dtype=np.int32), tokens.shape),
    }
    placed = setup.placement().put(batch)

    def run() -> None:
        with jax.set_mesh(setup.mesh):
            state[0], metrics = setup.step(state[0], placed, 1)
            float(metrics['loss'])

    return run


def held(setup: Any) -> dict[str, Any]:
    """Shapes of all parameters, what is trained in float32."""
    import jax

    trained = {
        name: jax.ShapeDtypeStruct(s.shape, 'float32', sharding=s.sharding)
        for name, s in setup.shapes.trainable.items()
    }
    return trained | setup.shapes.frozen


def random(shape: Any) -> Any:
    """Small random numbers, or codes."""
    import jax
    import jax.numpy as jnp

    def make(key):
        if jnp.issubdtype(shape.dtype, jnp.integer):
            return jax.random.randint(key, shape.shape, -(2**31), 2**31 - 1, shape.dtype)
        return (0.02 * jax.random.normal(key, shape.shape)).astype(shape.dtype)

    return jax.jit(make, out_shardings=shape.sharding)(jax.random.key(0))


def their_step(family: str, length: int, rows: int):
    """The same step by transformers and torch, with its fastest attention."""
    import torch
    import transformers

    a = architecture(family)
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    if family == 'llama':
        settings = transformers.LlamaConfig(
            vocab_size=a.vocab_size,
            hidden_size=a.embed,
            intermediate_size=a.mlp,
            num_hidden_layers=a.layers,
            num_attention_heads=a.q_heads,
            num_key_value_heads=a.kv_heads,
        )
        model = transformers.LlamaForCausalLM(settings)
    else:
        settings = transformers.BloomConfig(
            vocab_size=a.vocab_size, hidden_size=a.embed, n_layer=a.layers, n_head=a.q_heads
        )
        model = transformers.BloomForCausalLM(settings)
    model: Any = model.to(device).train()  # type: ignore[arg-type]
    if SHAPE.value == '7b':
        model.gradient_checkpointing_enable()
    if WAY.value == 'lora':
        import peft

        if SHAPE.value == '7b':
            model = model.to(torch.bfloat16)
            model.enable_input_require_grads()
        settings = peft.LoraConfig(r=RANK, target_modules='all-linear', task_type='CAUSAL_LM')
        model = peft.get_peft_model(model, settings)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.01)
    tokens = torch.randint(a.vocab_size, (rows, length), device=device)
    autocast = torch.autocast(device, torch.bfloat16, enabled=DTYPE.value == 'bfloat16')

    def run() -> None:
        with autocast:
            loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        optimiser.zero_grad()
        loss.item()

    return run


if __name__ == '__main__':
    app.run(main)
