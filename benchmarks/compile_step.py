"""Compiles a recipe's training step for a cluster that is not there, and tells what it would take.

    python -m benchmarks.compile_step --config=configs/sft_bloom.py:7b1 --target=v5e:4x4 \\
        --config.model.source= --config.model.preset=bloom_7b1

The compilers are the real ones, from their vendors' packages; only the devices are missing.
Targets: a TPU topology (v4:2x2x4, v5e:4x4, v5p:4x4x8, v6e:4x4, …), or h200:1 and h200:8. Needs the
packages that `.ci/compilers FOLDER` installs, on PYTHONPATH. Prints JSON: bytes for each device,
the shapes of the largest buffers, collectives inside loops, kernels, and the compiler's warnings.
What it cannot tell is speed.
"""

import dataclasses
import json
import os
import re
import sys
import tempfile

from absl import app, flags
from ml_collections import config_flags

from benchmarks.hlo import elements, loop_collectives
from belle_jax.planning.topology import topology

CONFIG = config_flags.DEFINE_config_file('config', None, 'The recipe.', lock_config=True)
TARGET = flags.DEFINE_string('target', 'v5e:4x4', 'A TPU topology, h200:1 or h200:8.')


def main(_: list[str]) -> None:
    """Compiles and prints."""
    os.environ.setdefault('TPU_SKIP_MDS_QUERY', '1')
    import jax

    jax.config.update('jax_platforms', 'cpu')
    from belle_jax import config

    run = config.resolve(CONFIG.value)
    # XLA writes its warnings to the process's standard error: kept aside and looked through.
    with tempfile.TemporaryFile('w+') as told:
        before = os.dup(2)
        os.dup2(told.fileno(), 2)
        try:
            compiled, facts = compile_for(run, TARGET.value)
        finally:
            os.dup2(before, 2)
            told.seek(0)
            log = told.read()
    print(json.dumps(facts | report(compiled, log), indent=2))
    sys.stderr.write('\n'.join(log.splitlines()[-3:]) + '\n')


def compile_for(run, target: str):
    """The compiled step, and what was compiled.

    Args:
        run: From `config.resolve`; its model is given by preset or architecture.
        target: As the flag's.
    Returns:
        (compiled, dict of facts).
    """
    import jax

    from belle_jax import config
    from belle_jax.training.setup import Setup, lay_out

    architecture = run.model.architecture or config.PRESETS[run.model.preset]
    devices, platform, options = topology(target)
    attention = run.model.attention
    if attention == 'auto' and run.model.attention_dropout:
        attention = 'xla'  # as training chooses: the fused kernels have no dropout
    elif attention == 'auto':
        attention = 'splash' if platform == 'tpu' else 'cudnn'
    run = dataclasses.replace(run, model=dataclasses.replace(run.model, attention=attention))
    setup = Setup(run, lay_out(run, architecture, devices), 1000)
    traced = setup.trace()
    with jax.set_mesh(setup.mesh):
        compiled = traced.lower(lowering_platforms=(platform,)).compile(compiler_options=options)
    facts = {
        'target': target,
        'model': run.model.preset or architecture.family,
        'mesh': dict(setup.mesh.shape),
        'micro_batch_rows': run.batch.size // run.batch.accumulation,
        'accumulation': run.batch.accumulation,
        'seq_len': run.data.seq_len,
        'attention': attention,
        'vocab': architecture.padded_vocab,
        'embed': architecture.embed,
    }
    return compiled, facts


def report(compiled, log: str) -> dict:
    """What the compiled program says of itself.

    Args:
        compiled: From `compile_for`.
        log: What the compiler wrote.
    Returns:
        bytes_per_device (arguments and temporaries, what is donated once), buffers (the largest
        shapes), loop_collectives (elements of the largest collective in a loop body), kernels,
        rematerialisation_warnings.
    """
    memory = compiled.memory_analysis()
    text = compiled.as_text()
    shapes = set(re.findall(r'(?:bf16|f32|f16|s32|pred)\[[\d,]+\]', text))
    largest = sorted(shapes, key=elements, reverse=True)[:12]
    warnings = [line for line in log.splitlines() if 'rematerialization' in line.lower()]
    return {
        'bytes_per_device': memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes,
        'state_bytes_per_device': memory.argument_size_in_bytes,
        'temporary_bytes_per_device': memory.temp_size_in_bytes,
        'buffers': largest,
        'shapes': sorted(shapes),
        'loop_collectives': loop_collectives(text),
        'kernels': sorted(set(re.findall(r'custom_call_target="([^"]+)"', text))),
        'rematerialisation_warnings': warnings,
    }


if __name__ == '__main__':
    flags.mark_flag_as_required('config')
    app.run(main)
