"""The kinds of data: each is one file with a class, its prompt a text under prompts/.

To add one: write `kinds/<name>.py` with a subclass of `Kind` (its `prompt` and its `read`), write
`prompts/<name>.txt`, and list the class here.
"""

from belle_jax.synthesis.kinds.base import Kind
from belle_jax.synthesis.kinds.dialogue import Dialogue
from belle_jax.synthesis.kinds.evol import Evol
from belle_jax.synthesis.kinds.label import Label
from belle_jax.synthesis.kinds.math import Math
from belle_jax.synthesis.kinds.multiturn import Multiturn
from belle_jax.synthesis.kinds.self_instruct import SelfInstruct
from belle_jax.synthesis.settings import Settings

KINDS: dict[str, type[Kind]] = {
    kind.name: kind for kind in (SelfInstruct, Multiturn, Dialogue, Math, Evol, Label)
}


def make(name: str, settings: Settings) -> Kind:
    """A kind by its name.

    Args:
        name: As in --kind.
        settings: The run's choices.
    Returns:
        The kind, ready to ask and to parse.
    Raises:
        ValueError: there is no such kind, or it lacks something that it needs.
    """
    if name not in KINDS:
        raise ValueError(f'kind={name!r} is unknown: set --kind to one of {", ".join(KINDS)}.')
    return KINDS[name](settings)


__all__ = ['KINDS', 'Kind', 'make']
