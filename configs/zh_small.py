"""A small Chinese model from nothing: the real run of docs/real-run.md, on a laptop's CPU.

belle-jax train --config=zh_small --workdir=runs/zh

Variants: `llama` (default) and `bloom`, 5 to 6 million parameters each. Trained on everything,
prompt and answer, as a language model; data.path and data.tokenizer say where the rows and a
tokenizer are. Expected: docs/real-run.md.
"""

from ml_collections import ConfigDict

from belle_jax import config

VARIANTS = ('llama', 'bloom')


def get_config(variant: str = 'llama') -> ConfigDict:
    """The recipe; `variant` is one of VARIANTS."""
    if variant not in VARIANTS:
        raise ValueError(f'variant {variant!r} is not one of {", ".join(VARIANTS)}.')
    c = config.default()
    c.model.architecture = {
        'family': variant,
        'embed': 256,
        'layers': 5,
        'q_heads': 4,
        'max_position': 512,
        'tied': True,
    }
    c.model.update(remat='none', scan=False)  # fast for a small model on one device
    c.data.update(path='data/zh.jsonl', tokenizer='data/tokenizer', template='belle')
    c.data.update(train_on='all', seq_len=512, on_bad_row='skip')
    c.data.validation.fraction = 0.05
    c.batch.size = 4
    # From nothing, Muon needs half of AdamW's steps (evaluation loss after 140 and after 280).
    c.optim.update(name='muon', learning_rate=4e-3, warmup_ratio=0.03, final_ratio=0.02)
    c.optim.update(weight_decay=0.1, beta1=0.95, beta2=0.98)
    c.train.epochs = 1.5
    return c
