"""A model of seconds, with dropout and everything else that a resumed run must repeat."""

from typing import Any

from ml_collections import ConfigDict

from belle_jax import config

VARIANTS = ('llama', 'bloom')


def get_config(variant: str = 'llama') -> ConfigDict:
    """The recipe; `variant` is one of VARIANTS."""
    if variant not in VARIANTS:
        raise ValueError(f'variant {variant!r} is not one of {", ".join(VARIANTS)}.')
    c: Any = config.default()
    c.model.architecture = {
        'family': variant,
        'embed': 32,
        'layers': 2,
        'q_heads': 4,
        'mlp': 64,
        'max_position': 64,
        'tied': True,
    }
    c.model.update(hidden_dropout=0.1, attention_dropout=0.1)
    c.data.update(template='belle', seq_len=32)
    c.batch.update(size=8, accumulation=1)
    c.optim.update(learning_rate=1e-3, warmup_steps=5, weight_decay=0.1)
    c.train.update(steps=30, log_every=1, eval_every=-1, checkpoint_every=5)
    return c
