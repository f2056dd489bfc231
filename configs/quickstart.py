"""A small LLaMA from nothing on the quickstart's pairs: minutes on two CPU cores.

    belle-jax quickstart

makes runs/quickstart/{train.jsonl, held_out.jsonl, tokenizer/} and then runs

    belle-jax train --config=quickstart --workdir=runs/quickstart/run

Expected on held-out questions, greedily: at least 90 % of the answers exactly right.
"""

from ml_collections import ConfigDict

from belle_jax import config


def get_config(variant: str = '') -> ConfigDict:
    """The recipe; it has no variants."""
    if variant:
        raise ValueError(f'configs/quickstart.py:{variant} is not known: it has no variants.')
    c = config.default()
    c.model.architecture = {
        'embed': 256,
        'layers': 4,
        'q_heads': 4,
        'mlp': 640,
        'tied': True,
        'max_position': 256,
        # Texts of 20 tokens need no slow rotations, and a model this narrow no small weights.
        'rope': {'theta': 100.0},
        'init_std': 0.06,
    }
    # Activations of 512 tokens a step are small enough to keep, and four layers to unroll.
    c.model.update(remat='none', scan=False)
    c.data.update(path='runs/quickstart/train.jsonl', tokenizer='runs/quickstart/tokenizer')
    c.data.update(template='belle', seq_len=128)
    # Many small steps: what the model learns here comes in sudden turns, after a number of steps
    # rather than of tokens.
    c.batch.size = 4
    c.train.update(steps=1200, log_every=50, eval_every=-1, checkpoint_every=-1)
    c.optim.update(learning_rate=2e-3, schedule='cosine', warmup_ratio=0.05)
    c.optim.update(weight_decay=0.1, beta2=0.98)
    return c
