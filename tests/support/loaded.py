"""Arrays of any source that a model is loaded from, to be compared."""

from typing import Any

from belle_jax.runs.load import open_parameters
from belle_jax.runs.parameters import place
from belle_jax.weights.tensors import DTYPES


def load_parameters(source, architecture=None, shardings=None, dtype='float32') -> dict[str, Any]:
    """Arrays by checkpoint name: sharded ones, or NumPy's where no shardings are given."""
    opened = open_parameters(source, architecture)
    if shardings is not None:
        return place(opened, shardings, dtype)
    return {
        name: opened.read(name, tuple(slice(0, n) for n in shape), DTYPES[dtype])
        for name, shape in opened.shapes.items()
    }
