"""BELLE's comparison of full fine-tuning and LoRA on LLaMA, a variant for each of its rows.

belle-jax train --config=full_or_lora:lora_2m --workdir=runs/lora-2m \\
    --config.model.source=PATH_TO_LLAMA

From the paper (Sun et al., 2023, arXiv:2304.08109), on 8 A100 of 40 GB; scores are of its 1,000
questions, 0 to 1:

    variant       model  trained                  hours an epoch  score
    full_0.6m     7B     everything               17              .686
    full_2m       7B     everything               31              .710
    lora_0.6m     7B     adapters                 5               .589
    lora_2m       7B     adapters                 7               .609
    lora_4m       7B     adapters                                 .624
    lora_2m_13b   13B    adapters                 8 to 10         .648
    math_lora     7B     adapters on full_2m                      .729
    math_full     7B     everything, on full_2m                   .738

LoRA: rank 8 of q, k, v, gate, up and down (17,891,328 parameters of 7B, 28,016,640 of 13B), 128
conversations a step, learning rate 2e-4, 4 epochs, cosine after 100 steps of warm-up, length 1,024.
Full: 32 a step, 5e-6, 3 epochs, cosine after 0.03 of the steps, length 2,048 (from BELLE's data
paper); of mathematics 5e-7 and 2 epochs. Where this departs from BELLE:

- alpha is 16 and there is no dropout: the paper names neither.
- Which 4M rows they were is not published: here all four sets of conversations, 3.9M.
- The row of its README that gives "LoRA (4M)" .686 and 17 hours is full_0.6m's.
- 1,000 conversations are held out for validation; rows that cannot be used are skipped and counted.
- An answer's end-of-sequence token is always trained on; BELLE's trainer cut it off long answers.

math_lora and math_full begin with what full_2m has made: --config.model.source=runs/full-2m.
"""

from typing import Any

from ml_collections import ConfigDict

from belle_jax import config

FIRST, MILLION, TWO_MILLION, CHAT, MATHEMATICS = (
    f'BelleGroup/{name}'
    for name in (
        'train_0.5M_CN', 'train_1M_CN', 'train_2M_CN', 'generated_chat_0.4M', 'school_math_0.25M',
    )
)  # fmt: skip
DATA = {
    'full_0.6m': FIRST,
    'full_2m': TWO_MILLION,
    'lora_0.6m': FIRST,
    'lora_2m': TWO_MILLION,
    'lora_4m': ','.join((FIRST, MILLION, TWO_MILLION, CHAT)),
    'lora_2m_13b': TWO_MILLION,
    'math_lora': MATHEMATICS,
    'math_full': MATHEMATICS,
}
VARIANTS = tuple(DATA)


def get_config(variant: str = 'lora_2m') -> ConfigDict:
    """The recipe; `variant` is one of VARIANTS."""
    if variant not in VARIANTS:
        raise ValueError(f'variant {variant!r} is not one of {", ".join(VARIANTS)}.')
    c: Any = config.default()
    size = '13b' if variant.endswith('13b') else '7b'
    c.model.source = 'runs/full-2m' if variant[:4] == 'math' else f'weights/llama-{size}-hf'
    c.model.dtype = 'bfloat16'
    c.data.update(path=DATA[variant], template='belle', packing=False, on_bad_row='skip')
    c.data.validation.count = 1000
    if 'lora' in variant:
        c.adapter.update(rank=8, targets='query,key,value,gate,up,down')
        c.data.seq_len, c.batch.size, c.train.epochs = 1024, 128, 4.0
        c.optim.update(learning_rate=2e-4, warmup_steps=100)
    else:
        c.data.seq_len, c.batch.size, c.train.epochs = 2048, 32, 3.0
        c.optim.update(learning_rate=5e-6, warmup_ratio=0.03)
    if variant == 'math_full':
        c.optim.learning_rate, c.train.epochs = 5e-7, 2.0
    return c
