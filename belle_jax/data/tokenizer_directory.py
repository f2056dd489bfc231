"""What the files of a Hugging Face directory say about its tokenizer.

They are read with `tokenizers` alone, never through a class that a file names: published LLaMA
directories name a class that does not exist any more, hold only `tokenizer.model`, or wrong ids in
config.json, and transformers answers to each with other tokens.
"""

import pathlib
import re
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from belle_jax import storage
from belle_jax.data import sentencepiece_model, tiktoken_model, tokenizer_bounds
from belle_jax.data.dummy_space import DummySpace
from belle_jax.data.tokenizer_bounds import explained
from belle_jax.json_files import JSON_MAX, read_json

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
# Settings that change tokens and are not known here, with the values that change none.
REFUSED = {'split_special_tokens': False, 'do_lower_case': False, 'sp_model_kwargs': {}}
MORE_SPECIAL = ('additional_special_tokens', 'extra_special_tokens')
# Names that a vocabulary uses when no settings file says which tokens begin, end and pad a text.
USUAL = {
    'bos': ('<s>', '<|begin_of_text|>'),
    'eos': ('</s>', '<|end_of_text|>', '<|endoftext|>'),
    'pad': ('<pad>',),
}
LLAMA_CLASSES = ('LlamaTokenizer', 'LlamaTokenizerFast')


def find(path: str | pathlib.Path) -> pathlib.Path:
    """The directory that a path or hub name stands for; see `tokenizer.load`."""
    directory = storage.local(path, FILES)
    for candidate in (directory / 'tokenizer', directory):
        if any((candidate / name).is_file() for name in FILES[:3]):
            return candidate
    if directory.exists() or not re.fullmatch(r'[\w.-]+(/[\w.-]+)?', str(path)):
        raise ValueError(
            f'{path} holds no tokenizer: one of tokenizer.json, tokenizer.model or vocab.json with '
            'merges.txt is needed. Name a directory that has it; in training that is '
            '--config.data.tokenizer.'
        )
    import huggingface_hub

    try:
        here = huggingface_hub.snapshot_download(str(path), allow_patterns=list(FILES))
    except Exception as error:  # every kind of network trouble has a class of its own there
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f'{path} is not a directory here, and the hub did not give it: {reason} '
            'Check the name, or download it and give the directory.'
        ) from error
    return pathlib.Path(here)


def _json(path: pathlib.Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}


def read_settings(directory: pathlib.Path) -> dict[str, Any]:
    """tokenizer_config.json over special_tokens_map.json; empty names count as none.

    config.json's ids are not asked: early LLaMA conversions say bos 0, eos 1 and pad -1 there.

    Returns:
        The settings, and as `special` the AddedToken of each token that either file names so.
    Raises:
        ValueError: a setting changes tokens in a way that is not known here.
    """
    merged: dict[str, Any] = {}
    special: dict[str, AddedToken] = {}
    for name in ('special_tokens_map.json', 'tokenizer_config.json'):
        for key, value in _json(directory / name).items():
            several = key in MORE_SPECIAL
            for token in _listed(value) if several else [value] if key.endswith('_token') else []:
                if found := _special_token(token):
                    special[found.content] = found
            if isinstance(value, dict) and 'content' in value:
                value = value['content']
            if value not in ('', None):
                merged[key] = value
    for key, harmless in REFUSED.items():
        if merged.get(key, harmless) != harmless:
            raise ValueError(
                f'{directory / "tokenizer_config.json"} sets {key}={merged[key]!r}, which gives '
                f'other tokens and is not known here: set it to {harmless!r} if the model was '
                'trained without it.'
            )
    return merged | {'special': special}


def _listed(value: Any) -> list[Any]:
    value = list(value.values()) if isinstance(value, dict) else value or []
    if not isinstance(value, list):
        raise ValueError(f'{value!r:.80} is not a list of special tokens: mend the settings.')
    return value


def _flag(values: dict[str, Any], name: str) -> bool | None:
    """True or false; None where nothing is said."""
    if (value := values.get(name)) is not None and not isinstance(value, bool):
        raise ValueError(f'{name}={value!r:.80} must be true or false: mend tokenizer_config.json.')
    return value


def _token(spec: Any, **fixed: bool) -> AddedToken:
    """A token as settings spell it: its text, with flags."""
    if not isinstance(spec, dict) or not isinstance(spec.get('content'), str):
        raise ValueError(f'{spec!r:.80} is not a token with its content: mend the settings.')
    names = ('single_word', 'lstrip', 'rstrip', 'normalized', 'special')
    return AddedToken(spec['content'], **{n: bool(_flag(spec, n)) for n in names} | fixed)


def _special_token(value: Any) -> AddedToken | None:
    """A token as settings spell it: its text, or its text with flags."""
    if isinstance(value, str) and value:
        return AddedToken(value, special=True, normalized=False)
    return _token(value, special=True) if isinstance(value, dict) and value.get('content') else None


def read_backend(directory: pathlib.Path, settings: dict[str, Any]) -> Backend:
    """The `tokenizers` object of a directory, tokens that only its settings know included."""
    backend = _base(directory, settings)
    # Truncation and padding belong to batches, which are ours.
    backend.no_truncation()
    backend.no_padding()
    _add_tokens(backend, directory, settings)
    return backend


def _base(directory: pathlib.Path, settings: dict[str, Any]) -> Backend:
    file = directory / 'tokenizer.json'
    if file.is_file():
        tokenizer_bounds.check(file)
        with explained(file):
            return Backend.from_file(str(file))
    file = directory / 'tokenizer.model'
    if file.is_file():
        if tiktoken_model.is_ranks(file):
            return tiktoken_model.build(tiktoken_model.read_ranks(file))
        with explained(file):
            return sentencepiece_model.build(sentencepiece_model.read_model(file))
    file = directory / 'vocab.json'
    if not (directory / 'merges.txt').is_file():
        raise ValueError(f'{directory} has vocab.json without merges.txt: copy that as well.')
    tokenizer_bounds.check_ids(file, read_json(file).values())
    with explained(f'{file} with merges.txt'):
        backend = Backend(models.BPE.from_file(str(file), str(directory / 'merges.txt')))
    said = f'{settings.get("tokenizer_class")} {_json(directory / "config.json")}'
    bloom = 'bloom' in said.lower()
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


def read_encoder(directory: pathlib.Path, backend: Backend) -> sentencepiece_model.Encoder | None:
    """SentencePiece's own library, where the directory has nothing else that says its tokens."""
    file = directory / 'tokenizer.model'
    if (directory / 'tokenizer.json').is_file() or not file.is_file():
        return None
    if tiktoken_model.is_ranks(file):
        return None
    with explained(file):
        return sentencepiece_model.own_encoder(file, sentencepiece_model.read_model(file), backend)


def _add_tokens(backend: Backend, directory: pathlib.Path, settings: dict[str, Any]) -> None:
    """Tokens that only the settings know, in the order of their ids, which must then agree."""
    special: dict[str, AddedToken] = settings['special']
    extra: dict[int, AddedToken] = {}
    for content, index in _json(directory / 'added_tokens.json').items():
        extra[_index(index)] = special.get(content) or AddedToken(content, normalized=False)
    decoder = settings.get('added_tokens_decoder', {})
    if not isinstance(decoder, dict):
        raise ValueError(f'{directory}: added_tokens_decoder is not an object: mend the settings.')
    for index, spec in decoder.items():
        token = _token(spec)
        is_special = token.special or token.content in special
        said = _flag(spec, 'normalized')
        said = not is_special if said is None else said
        extra[_index(index)] = _token(spec, special=is_special, normalized=said)
    for content, token in special.items():
        index = backend.token_to_id(content)
        if index is not None:
            extra.setdefault(index, token)
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


def _index(value: Any) -> int:
    if re.fullmatch(r'\d{1,9}', str(value)):
        return int(value)
    raise ValueError(f'{value!r:.80} is not the id of an added token: mend the settings.')


def special_id(backend: Backend, settings: dict[str, Any], kind: str) -> int | None:
    """The id of the token that begins, ends or pads a text: kind is bos, eos or pad."""
    name = settings.get(f'{kind}_token')
    if isinstance(name, str):
        return backend.token_to_id(name)
    found = (backend.token_to_id(usual) for usual in USUAL[kind])
    return next((index for index in found if index is not None), None)


def read_chat_template(directory: pathlib.Path, settings: dict[str, Any]) -> str | None:
    """The Jinja source of a chat template; None where there is none."""
    file = directory / 'chat_template.jinja'
    if file.is_file():
        if file.stat().st_size > JSON_MAX:
            raise ValueError(f'{file} has more than {JSON_MAX:,} bytes: it is not a template.')
        try:
            return file.read_text('utf-8')
        except UnicodeDecodeError as error:
            raise ValueError(f'{file} is not UTF-8: copy it again.') from error
    template = _json(directory / 'chat_template.json').get('chat_template')
    template = template or settings.get('chat_template')
    if isinstance(template, list):  # several, by name
        named = [t for t in template if isinstance(t, dict) and t.get('name') == 'default']
        template = named[-1].get('template') if named else None
    if template is not None and not isinstance(template, str):
        raise ValueError(f'{directory}: its chat_template is not text: mend or remove it.')
    return template


def adds_bos(
    directory: pathlib.Path, settings: dict[str, Any], backend: Backend, bos_id: int | None
) -> bool:
    """Whether the tokenizer itself begins a text with BOS."""
    said = _flag(settings, 'add_bos_token')
    if said is not None:
        return said
    # LLaMA's class begins with BOS whatever tokenizer.json's post-processor says.
    llama = 'llama' in str(settings.get('tokenizer_class') or '').lower()
    llama = llama or not (directory / 'tokenizer.json').is_file()
    if llama and bos_id is not None and 'ByteLevel' not in repr(backend.pre_tokenizer):
        return True
    return bos_id in backend.encode('').ids[:1]


def read_dummy_space(
    directory: pathlib.Path, settings: dict[str, Any], backend: Backend
) -> DummySpace:
    """What a directory's settings, or else its files, say of the space in front.

    Source: huggingface/transformers 5, models/llama/tokenization_llama.py.
    """
    legacy, spaced = _flag(settings, 'legacy'), _flag(settings, 'add_prefix_space')
    bytelevel = 'ByteLevel' in repr(backend.pre_tokenizer)
    if settings.get('tokenizer_class') in LLAMA_CLASSES and not bytelevel:
        # The class goes by its settings, whatever tokenizer.json says.
        return DummySpace(spaced is not False, bool(legacy), True)
    if legacy is False and not (directory / 'tokenizer.json').is_file():
        return DummySpace(once=True)
    first = "'first'" in repr(backend.pre_tokenizer).replace('"', "'")
    return DummySpace(after_special=not first)
