"""Full fine-tuning of LLaMA on BELLE's conversations, as the model cards of BELLE-LLaMA have it.

belle-jax train --config=sft_llama:7b --workdir=runs/belle-llama-7b \\
    --config.model.source=PATH_TO_LLAMA

From the cards: 16 conversations a step, 3 epochs, cosine decay after a warm-up over 0.03 of the
steps, no weight decay; learning rate 5e-6 for 7B and 2e-5 for 13B (whose newest weights were
trained with 5e-6). Where this departs from BELLE:

- 7B's card names BELLE's first data, 0.6M rows; the recipe takes train_0.5M_CN.
- 1,000 conversations are held out for validation; rows that cannot be used are skipped and counted.
- Length 2,048, that of BELLE's data paper; the cards name none.
- Adam's numbers and clipping at 1 are transformers' defaults, as the cards name none.
- Parameters and moments are float32 and activations bfloat16.
- An answer's end-of-sequence token is always trained on; BELLE's trainer cut it off long answers.

LLaMA's weights may not be passed on: model.source names the directory of your own copy.
Variants: 7b, 13b.
"""

from ml_collections import ConfigDict

from belle_jax import config

VARIANTS = ('7b', '13b')


def get_config(variant: str = '7b') -> ConfigDict:
    """The recipe; `variant` is one of VARIANTS."""
    if variant not in VARIANTS:
        raise ValueError(f'variant {variant!r} is not one of {", ".join(VARIANTS)}.')
    c = config.default()
    c.model.source = f'weights/llama-{variant}-hf'
    c.model.dtype = 'bfloat16'
    data = 'BelleGroup/train_0.5M_CN' if variant == '7b' else 'BelleGroup/train_2M_CN'
    c.data.update(path=data, template='belle', seq_len=2048, packing=False, on_bad_row='skip')
    c.data.validation.count = 1000
    c.batch.size = 16
    c.optim.update(learning_rate=5e-6 if variant == '7b' else 2e-5, warmup_ratio=0.03)
    c.train.epochs = 3.0
    return c
