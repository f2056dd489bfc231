"""Belle-JAX: instruction-following models from open BLOOM and LLaMA weights, in JAX.

    import belle_jax
    from belle_jax import config

    recipe = config.default()
    recipe.model.source = 'bigscience/bloomz-560m'
    recipe.data.path = 'mine.jsonl'
    run = belle_jax.train_run(recipe, 'runs/mine')

    assistant = belle_jax.load(run)
    print(belle_jax.generate(assistant, ['你好'], max_new_tokens=64)[0].text)
    print(belle_jax.score(assistant, ['一加一等于几？'], ['二'])[0].sum())

`load_model` gives the model alone, from tokens to logits. The programs: belle-jax --help.
Importing this package alone imports no JAX, so that tools that need none start fast.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from belle_jax.public import Assistant, generate, load, load_model, score, train_run

__all__ = ['Assistant', 'generate', 'load', 'load_model', 'score', 'train_run']
__version__ = '0.1.0'


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    from belle_jax import public

    return getattr(public, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
