"""Belle-JAX: instruction-following models from open BLOOM and LLaMA weights, in JAX.

Importing this package alone imports no JAX, so that tools that need none start fast.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from belle_jax.runs.load import load_model

__all__ = ['load_model']
__version__ = '0.1.0'


def __getattr__(name: str) -> Any:
    if name == 'load_model':
        from belle_jax.runs.load import load_model

        return load_model
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
