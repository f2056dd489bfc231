"""Quantises a model to 2, 3, 4 or 8 bits a weight with GPTQ.

    belle-jax convert gptq --model=models/belle-7b --target=models/belle-7b-4bit \\
        --calibration=data/chat.jsonl --template=belle

--model is a Hugging Face directory, a hub name, a run directory or a checkpoint. The result runs
with `belle-jax sample`, and in vLLM, transformers and GPTQModel. --calibration is what the model
reads meanwhile: wikitext2, ptb, c4, a file of text, or with --template conversations in any layout
that training reads; text like what the model is for serves best. Its last tenth is held out, and
perplexity is measured on it before and after.

A process that was stopped goes on after the last whole layer when the same command is given again.
The directory has a report of every matrix, quantization_report.html. Several processes, started as
those of `belle-jax sample`, spread the text over the devices of all; process 0 writes.
"""

import dataclasses
from pathlib import Path

from absl import flags

from belle_jax import cli, cluster_flags
from belle_jax.families.packing import BITS

MODEL = flags.DEFINE_string(
    'model', None, 'Hugging Face directory, hub name, run directory or checkpoint.'
)
TARGET = flags.DEFINE_string('target', None, 'Directory to write: new, or empty.')
BITS_FLAG = flags.DEFINE_enum('bits', '4', [str(bits) for bits in BITS], 'Of a weight.')
GROUP_SIZE = flags.DEFINE_integer(
    'group_size', 128, 'Inputs that share a scale; -1: all inputs of a matrix.'
)
SYM = flags.DEFINE_boolean(
    'sym', True, 'Grids around zero, which vLLM takes; with --clip they are as good as others.'
)
ACT_ORDER = flags.DEFINE_boolean(
    'act_order', False, 'Inputs with large activations first, in groups of their own (g_idx).'
)
ACT_GROUP_AWARE = flags.DEFINE_boolean(
    'act_group_aware', True, 'Inputs with large activations first, in the groups that they are in.'
)
TRUE_SEQUENTIAL = flags.DEFINE_boolean(
    'true_sequential', True, 'Within a layer, too, let each product read what is quantised before.'
)
DAMP = flags.DEFINE_float(
    'damp', 0.01, "Added to a Hessian's diagonal, as a fraction of its mean.", lower_bound=0
)
CLIP = flags.DEFINE_boolean(
    'clip', True, 'Look for the range of each group that loses least, not the one that holds all.'
)
PROPAGATE = flags.DEFINE_float(
    'propagate',
    0.5,
    'Share of the errors of earlier layers that a matrix makes up for.',
    lower_bound=0,
    upper_bound=1,
)
ROTATE = flags.DEFINE_boolean(
    'rotate', False, 'Turn the channels before, which spreads outliers (LLaMA; exports stay plain).'
)
TUNE = flags.DEFINE_integer(
    'tune', 0, 'Train codes and scales of each layer for that many epochs.', lower_bound=0
)
TABLE_BITS = flags.DEFINE_enum(
    'table_bits',
    '0',
    ['0', '4', '8'],
    'Of embedding and output table; 0: as they are. Other programs read the output table at most.',
)
CALIBRATION = flags.DEFINE_string(
    'calibration', 'wikitext2', 'wikitext2, ptb, c4, or a file to read.'
)
TEMPLATE = flags.DEFINE_string(
    'template', '', 'Chat template of the conversations in --calibration; without one it is text.'
)
SAMPLES = flags.DEFINE_integer('samples', 128, 'Samples of --calibration.', lower_bound=1)
SEQ_LEN = flags.DEFINE_integer('seq_len', 2048, 'Tokens of a sample at most.', lower_bound=2)
MEASURE = flags.DEFINE_integer(
    'measure', 32, 'Samples to measure perplexity on at most; 0: none.', lower_bound=0
)
FORMAT = flags.DEFINE_enum(
    'format',
    'gptq',
    ['gptq', 'gptq_v2', 'belle_pt', 'compressed_tensors'],
    "Of the files; belle_pt: BELLE's bare .pt.",
)
DTYPE = flags.DEFINE_enum(
    'dtype', 'float16', ['float16', 'bfloat16', 'float32'], 'Of what is not quantised.'
)
SEED = flags.DEFINE_integer('seed', 0, 'Decides samples and rotations.')
DEVICES = flags.DEFINE_integer('devices', 1, 'That share the work.', lower_bound=1)


def main() -> object:
    """Quantises, and returns the directory."""
    from belle_jax.quantization import run
    from belle_jax.quantization.grid import Codes
    from belle_jax.quantization.matrices import Quantising
    from belle_jax.quantization.process import Method
    from belle_jax.quantization.solver import Solving
    from belle_jax.quantization.tuning import Tuning

    if GROUP_SIZE.value < 1 and GROUP_SIZE.value != -1:
        raise ValueError(
            f'--group_size={GROUP_SIZE.value}: a group has at least one input; -1 is one group of '
            'all inputs.'
        )
    # The first version of the format stores one less than a zero.
    lowest = 1 if FORMAT.value in ('gptq', 'belle_pt') else 0
    codes = Codes(int(BITS_FLAG.value), SYM.value, lowest, shrinks=20 if CLIP.value else 1)
    order = 'groups' if ACT_GROUP_AWARE.value else 'none'
    solving = Solving(codes, max(GROUP_SIZE.value, 0), 'activations' if ACT_ORDER.value else order)
    method = Method(
        Quantising(solving, DAMP.value, PROPAGATE.value),
        TRUE_SEQUENTIAL.value,
        Tuning(epochs=TUNE.value) if TUNE.value else None,
        SEED.value,
    )
    job = run.Quantisation(
        model=str(MODEL.value),
        target=Path(str(TARGET.value)),
        method=method,
        table_bits=int(TABLE_BITS.value),
        rotate=ROTATE.value,
        source=CALIBRATION.value,
        template=TEMPLATE.value,
        samples=SAMPLES.value,
        seq_len=SEQ_LEN.value,
        held=MEASURE.value,
        layout=FORMAT.value,
        dtype=DTYPE.value,
        devices=DEVICES.value,
    )
    together = cluster_flags.find()
    same = dataclasses.asdict(job)  # where --devices stands, it does for all
    place = f'--target={TARGET.value}'
    with cluster_flags.joined(together, Path(f'{TARGET.value}.logs'), same, place=place):
        if together:
            job = dataclasses.replace(job, devices=cluster_flags.all_devices(DEVICES))
        return run.quantise(job)


if __name__ == '__main__':
    cli.run(
        main,
        required=('model', 'target'),
        stopped='stopped. The same command goes on after the last whole layer.',
    )
