"""A Hugging Face directory's tokenizer: text to ids and back, the same on every version of it.

The directory's own files are read with `tokenizers` alone, never through a class that a file
names: published LLaMA directories name a class that does not exist any more, hold only
`tokenizer.model`, or wrong ids in config.json, and transformers answers to each with other tokens.
"""

import dataclasses
import hashlib
import json
import pathlib
import re
import shutil
from collections.abc import Iterator, Sequence
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from belle_jax.data import sentencepiece_model, tiktoken_model

FILES = (
    'tokenizer.json',
    'tokenizer.model',
    'vocab.json',
    'merges.txt',
    'added_tokens.json',
    'tokenizer_config.json',
    'special_tokens_map.json',
    'chat_template.jinja',
    'chat_template.json',
)
# BLOOM splits words at these and nowhere else (bigscience/tokenizer's tokenizer.json).
BLOOM_SPLIT = r' ?[^(\s|[.,!?…。，、।۔،])]+'
# Names that a vocabulary uses when no settings file says which tokens begin, end and pad a text.
USUAL = {
    'bos': ('<s>', '<|begin_of_text|>'),
    'eos': ('</s>', '<|end_of_text|>', '<|endoftext|>'),
    'pad': ('<pad>',),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizer:
    """Text to ids and back. Special tokens in the text are text: nobody can type one.

    `continuing` is the same tokenizer without the space that LLaMA's puts before a text: for text
    that goes on where other text ended.
    """

    directory: pathlib.Path
    backend: Backend
    continuing: Backend
    bos_id: int | None
    eos_id: int
    pad_id: int | None
    adds_bos: bool  # whether the tokenizer itself begins a text with BOS
    spaces_after_special: bool  # whether text after a special token gets that space as well
    chat_template: str | None
    special: dict[str, int]  # the tokens that no text can contain

    def __len__(self) -> int:
        """One more than the largest id: the rows that an embedding needs."""
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, text: str, *, bos: bool = False, continued: bool = False) -> list[int]:
        """The ids of a text.

        Args:
            text: Any text; what looks like a special token in it is spelled out.
            bos: Whether to begin with BOS if this tokenizer does so.
            continued: Whether the text goes on where other text ended.
        Returns:
            Ids, without EOS.
        """
        ids = next(self.encode_batch([text], continued=continued))
        return [self.bos_id, *ids] if bos and self.adds_bos and self.bos_id is not None else ids

    def encode_batch(self, texts: Sequence[str], *, continued: bool = False) -> Iterator[list[int]]:
        """`encode` of many texts on all cores, without BOS; done when this returns."""
        backend = self.continuing if continued else self.backend
        # The fast one keeps no offsets into the text, which nobody asks for here.
        encodings = backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return (encoding.ids for encoding in encodings)  # a list of them all would be large

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """The text of ids; bytes that are not UTF-8 become U+FFFD."""
        return self.backend.decode(list(ids), skip_special_tokens=skip_special)

    def token(self, index: int) -> str:
        """How the vocabulary spells an id, such as '</s>'."""
        return self.backend.id_to_token(index) or ''

    def fingerprint(self) -> str:
        """A hash of everything that decides which ids a text becomes."""
        state = (self.backend.to_str(), self.bos_id, self.eos_id, self.adds_bos)
        return hashlib.sha256(repr(state).encode()).hexdigest()

    def save(self, directory: pathlib.Path) -> None:
        """Copies the source's tokenizer files, unchanged; all of them appear at once.

        vocab.json with merges.txt does not say how words are split, and what does may be a
        config.json that is not copied: beside them tokenizer.json is written.
        """
        partial = directory.with_name(f'.{directory.name}.partial')
        shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed here
        partial.mkdir(parents=True)
        for name in FILES:
            if (self.directory / name).is_file():
                shutil.copyfile(self.directory / name, partial / name)
        if not any((partial / name).is_file() for name in FILES[:2]):
            self.backend.save(str(partial / 'tokenizer.json'))
        if directory.is_dir():
            for file in partial.iterdir():
                file.replace(directory / file.name)
            partial.rmdir()
        else:
            partial.rename(directory)


def load(path: str | pathlib.Path) -> Tokenizer:
    """Loads a tokenizer; runs no code from the directory.

    Args:
        path: A Hugging Face directory, a run directory, or a hub name such as
            'BelleGroup/BELLE-7B-2M'.
    Returns:
        The tokenizer.
    Raises:
        ValueError: no tokenizer is there, or its files contradict each other; they are named.
    """
    directory = _directory(path)
    settings = _settings(directory)
    class_name = str(settings.get('tokenizer_class') or '').lower()
    backend = _backend(directory, settings)
    _add_tokens(backend, directory, settings)
    special = {
        token.content: index
        for index, token in backend.get_added_tokens_decoder().items()
        if token.special
    }
    bos_id, eos_id, pad_id = (_special_id(backend, settings, k) for k in ('bos', 'eos', 'pad'))
    if eos_id is None:
        raise ValueError(
            f'{directory} names no end-of-sequence token, and every answer ends with one: set '
            'eos_token in its tokenizer_config.json.'
        )
    adds_bos = settings.get('add_bos_token')
    if adds_bos is None:
        # LLaMA's class begins with BOS whatever tokenizer.json's post-processor says.
        adds_bos = 'llama' in class_name or not (directory / 'tokenizer.json').is_file()
        adds_bos = adds_bos and bos_id is not None and not _is_bytelevel(backend)
        adds_bos = adds_bos or bos_id in backend.encode('').ids[:1]
    # Post-processing adds special tokens, and truncation and padding belong to batches: all ours.
    backend.no_truncation()
    backend.no_padding()
    continuing = _continuing(backend)
    backend.encode_special_tokens = continuing.encode_special_tokens = True
    return Tokenizer(
        directory=directory,
        backend=backend,
        continuing=continuing,
        bos_id=bos_id,
        eos_id=eos_id,
        pad_id=pad_id,
        adds_bos=bool(adds_bos),
        spaces_after_special="'first'" not in _spacing(backend),
        chat_template=_chat_template(directory, settings),
        special=special,
    )


def _directory(path: str | pathlib.Path) -> pathlib.Path:
    directory = pathlib.Path(path)
    for candidate in (directory / 'tokenizer', directory):
        if any((candidate / name).is_file() for name in FILES[:3]):
            return candidate
    if directory.exists() or not re.fullmatch(r'[\w.-]+(/[\w.-]+)?', str(path)):
        raise ValueError(
            f'{path} holds no tokenizer: one of tokenizer.json, tokenizer.model or vocab.json with '
            'merges.txt is needed. Set --config.data.tokenizer to a directory that has it.'
        )
    import huggingface_hub

    try:
        return pathlib.Path(
            huggingface_hub.snapshot_download(str(path), allow_patterns=list(FILES))
        )
    except Exception as error:  # every kind of network trouble has a class of its own there
        raise ValueError(
            f'{path} is no directory here, and the hub did not give it: {_first_line(error)} Check '
            'the name, or download it and give the directory.'
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _json(path: pathlib.Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text('utf-8-sig'))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f'{path} is not readable JSON ({error}): copy it again.') from error
    return values if isinstance(values, dict) else {}


def _settings(directory: pathlib.Path) -> dict[str, Any]:
    """tokenizer_config.json over special_tokens_map.json; empty names count as none.

    config.json's ids are not asked: early LLaMA conversions say bos 0, eos 1 and pad -1 there.
    """
    merged: dict[str, Any] = {}
    for name in ('special_tokens_map.json', 'tokenizer_config.json'):
        for key, value in _json(directory / name).items():
            if isinstance(value, dict) and 'content' in value:
                value = value['content']
            if value not in ('', None):
                merged[key] = value
    return merged


def _backend(directory: pathlib.Path, settings: dict[str, Any]) -> Backend:
    file = directory / 'tokenizer.json'
    if file.is_file():
        try:
            return Backend.from_file(str(file))
        except Exception as error:  # the library raises the bare class
            raise ValueError(f'{file} is not readable ({error}): copy it again.') from error
    file = directory / 'tokenizer.model'
    if file.is_file():
        if tiktoken_model.is_ranks(file):
            return tiktoken_model.build(tiktoken_model.read(file))
        return sentencepiece_model.build(sentencepiece_model.read(file), file)
    file = directory / 'vocab.json'
    if not (directory / 'merges.txt').is_file():
        raise ValueError(f'{directory} has vocab.json without merges.txt: copy that as well.')
    backend = Backend(models.BPE.from_file(str(file), str(directory / 'merges.txt')))
    bloom = (
        'bloom' in f'{settings.get("tokenizer_class")} {_json(directory / "config.json")}'.lower()
    )
    bytelevel = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not bloom)
    split = pre_tokenizers.Split(Regex(BLOOM_SPLIT), 'isolated')
    backend.pre_tokenizer = (  # pyright: ignore[reportAttributeAccessIssue]
        pre_tokenizers.Sequence([split, bytelevel]) if bloom else bytelevel
    )
    backend.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    names = ('<unk>', '<s>', '</s>', '<pad>', '<|endoftext|>')
    known = [n for n in names if backend.token_to_id(n) is not None]
    backend.add_special_tokens([AddedToken(n, special=True, normalized=False) for n in known])
    return backend


def _add_tokens(backend: Backend, directory: pathlib.Path, settings: dict[str, Any]) -> None:
    """Tokens that only the settings know, in the order of their ids, which must then agree."""
    extra: dict[int, AddedToken] = {}
    for content, index in _json(directory / 'added_tokens.json').items():
        extra[int(index)] = AddedToken(content, normalized=False)
    for index, spec in settings.get('added_tokens_decoder', {}).items():
        flags = {k: bool(spec.get(k)) for k in ('single_word', 'lstrip', 'rstrip', 'special')}
        flags['normalized'] = bool(spec.get('normalized', not flags['special']))
        extra[int(index)] = AddedToken(spec['content'], **flags)
    for name in ('bos_token', 'eos_token', 'unk_token', 'pad_token'):
        content = settings.get(name)
        index = backend.token_to_id(content) if isinstance(content, str) else None
        if index is not None and index not in extra:
            extra[index] = AddedToken(content, special=True, normalized=False)
    present = backend.get_added_tokens_decoder()
    for index, token in sorted(extra.items()):
        if index in present and (present[index].special or not token.special):
            continue
        (backend.add_special_tokens if token.special else backend.add_tokens)([token])
        if backend.token_to_id(token.content) != index:
            raise ValueError(
                f'{directory} gives the token {token.content!r} the id {index}, but it follows the '
                f'vocabulary as id {backend.token_to_id(token.content)}: mend added_tokens.json or '
                'tokenizer_config.json.'
            )


def _special_id(backend: Backend, settings: dict[str, Any], kind: str) -> int | None:
    name = settings.get(f'{kind}_token')
    if isinstance(name, str):
        return backend.token_to_id(name)
    found = (backend.token_to_id(usual) for usual in USUAL[kind])
    return next((index for index in found if index is not None), None)


def _chat_template(directory: pathlib.Path, settings: dict[str, Any]) -> str | None:
    file = directory / 'chat_template.jinja'
    if file.is_file():
        return file.read_text('utf-8')
    template = _json(directory / 'chat_template.json').get('chat_template')
    template = template or settings.get('chat_template')
    if isinstance(template, list):  # several, by name
        named = {entry['name']: entry['template'] for entry in template}
        template = named.get('default')
    return template if isinstance(template, str) else None


def _spacing(backend: Backend) -> str:
    return repr(backend.pre_tokenizer).replace('"', "'")


def _is_bytelevel(backend: Backend) -> bool:
    return 'ByteLevel' in repr(backend.pre_tokenizer)


def _continuing(backend: Backend) -> Backend:
    """The same tokenizer without the space in front, or itself where it puts none."""
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
    return Backend.from_str(json.dumps(state)) if changed else backend
