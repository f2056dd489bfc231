"""The kinds of data: each is one file with a class, its prompt a text under prompts/.

To add one: write `kinds/<name>.py` with a subclass of `Kind` (its `prompt` and its `read`), write
`prompts/<name>.txt`, and list the class here.
"""

from belle_jax.synthesis.kinds.base import KINDS, Kind, make
from belle_jax.synthesis.kinds.dialogue import Dialogue
from belle_jax.synthesis.kinds.evol import Evol
from belle_jax.synthesis.kinds.label import Label
from belle_jax.synthesis.kinds.math import Math
from belle_jax.synthesis.kinds.multiturn import Multiturn
from belle_jax.synthesis.kinds.self_instruct import SelfInstruct

KINDS |= {kind.name: kind for kind in (SelfInstruct, Multiturn, Dialogue, Math, Evol, Label)}

__all__ = ['KINDS', 'Kind', 'make']
