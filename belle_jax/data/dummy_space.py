"""The space that LLaMA's tokenizer puts in front of a text, and a tokenizer without it."""

import json
from typing import Any, NamedTuple

from tokenizers import Tokenizer as Backend


class DummySpace(NamedTuple):
    """Where the space that LLaMA's tokenizer puts in front of a text stands."""

    anywhere: bool = True  # False: not even in front of a whole text
    after_special: bool = False  # whether text after a special token gets it as well
    once: bool = False  # whether such text that begins with a space gets no second one


def without_dummy_space(backend: Backend, *, decoding: bool = False) -> Backend:
    """The same tokenizer without the space in front, or itself where it puts none.

    Args:
        backend: With it.
        decoding: Whether what it decodes keeps a first space, which then is no dummy.
    """
    state = json.loads(backend.to_str())
    changed = False

    def strip(node: Any) -> Any:
        nonlocal changed
        if not isinstance(node, dict):
            return node
        for key in ('normalizers', 'pretokenizers'):
            if key in node:
                kept = [strip(child) for child in node[key]]
                node[key] = [child for child in kept if child is not None]
        if 'decoders' in node:
            node['decoders'] = [d for d in node['decoders'] if d['type'] != 'Strip']
            changed = True
        if node.get('type') == 'Prepend':
            changed = True
            return None
        if node.get('type') == 'Metaspace' and node.get('prepend_scheme', 'always') != 'never':
            changed, node['prepend_scheme'] = True, 'never'
        if node.get('type') == 'ByteLevel' and node.get('add_prefix_space'):
            changed, node['add_prefix_space'] = True, False
        return node

    state['normalizer'] = strip(state.get('normalizer'))
    state['pre_tokenizer'] = strip(state.get('pre_tokenizer'))
    if decoding:
        state['decoder'] = strip(state.get('decoder'))
    return Backend.from_str(json.dumps(state)) if changed else backend
