"""Adapters beside a small base, with everything else that a resumed run must repeat."""

from typing import Any

from ml_collections import ConfigDict

from belle_jax import config


def get_config() -> ConfigDict:
    """The recipe: a directory `source`, in 4 bits, with moments in 8."""
    c: Any = config.default()
    c.model.update(source='source', frozen='nf4', hidden_dropout=0.1)
    c.data.update(template='belle', seq_len=32)
    c.batch.size = 8
    c.adapter.update(rank=4, dropout=0.1)
    c.optim.update(learning_rate=1e-2, moment_dtype='8bit')
    c.train.update(log_every=1, eval_every=-1)
    return c
