"""The space that LLaMA's tokenizer puts in front of a text, where the text does not have it."""

import json
import pathlib
from typing import Any, NamedTuple

from tokenizers import Tokenizer as Backend

LLAMA_CLASSES = ('LlamaTokenizer', 'LlamaTokenizerFast')


class DummySpace(NamedTuple):
    """Where the space that LLaMA's tokenizer puts in front of a text stands."""

    anywhere: bool = True  # False: not even in front of a whole text
    after_special: bool = False  # whether text after a special token gets it as well
    once: bool = False  # whether such text that begins with a space gets no second one


def read(directory: pathlib.Path, settings: dict[str, Any], backend: Backend) -> DummySpace:
    """What a directory's settings, or else its files, say of the space in front.

    Source: huggingface/transformers 5, models/llama/tokenization_llama.py.
    """
    legacy = settings.get('legacy')
    bytelevel = 'ByteLevel' in repr(backend.pre_tokenizer)
    if settings.get('tokenizer_class') in LLAMA_CLASSES and not bytelevel:
        # The class goes by its settings, whatever tokenizer.json says.
        return DummySpace(settings.get('add_prefix_space') is not False, bool(legacy), True)
    if legacy is False and not (directory / 'tokenizer.json').is_file():
        return DummySpace(once=True)
    first = "'first'" in repr(backend.pre_tokenizer).replace('"', "'")
    return DummySpace(after_special=not first)


def without(backend: Backend, *, decoding: bool = False) -> Backend:
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
