"""The tokenizer files of PaddleNLP's directories, and the chat template beside them."""

import json
import shutil
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from belle_jax.data import template_export, templates, tokenizer
from belle_jax.files import read_json, write_json
from belle_jax.formats import huggingface
from belle_jax.formats.paddle import chat_template
from belle_jax.formats.paddle.config import OWN

SETTINGS = 'tokenizer_config.json'
COMMON = ('vocab.json', 'merges.txt', 'added_tokens.json', 'special_tokens_map.json')
# A class that takes tokenizer.json as it is; transformers 5 no longer knows PaddleNLP's names.
FAST = 'PreTrainedTokenizerFast'
# Tokenizers that cut texts into words otherwise do so somewhere here.
PROBE = "你好，世界！这是2024年。It's a test's end...  two  spaces\n\nHuman: 123,456 (x+y)=z; ok?"


def to_huggingface(source: Path, target: Path, family: str) -> list[str]:
    """Copies a tokenizer, with what Hugging Face's libraries need beside it.

    Args:
        source: PaddleNLP's directory.
        target: An existing directory that has its `config.json`.
        family: Of the model.
    Returns:
        Sentences about what a person should know.
    Raises:
        ValueError: a file is damaged.
    """
    kept = ('tokenizer.json', 'tokenizer.model', SETTINGS, *COMMON, chat_template.FILE)
    huggingface.copy(source, target, kept)
    pieces = OWN[family].pieces
    if pieces and (source / pieces).is_file():
        shutil.copyfile(source / pieces, target / 'tokenizer.model')
    if not any((target / name).is_file() for name in tokenizer.FILES[:3]):
        return [f'{source} has no tokenizer, so there is none in --target.']
    settings = _json(target / SETTINGS)
    made = tokenizer.load(target)
    if not pieces and not (target / 'tokenizer.json').is_file():
        # How words are split is in no file of PaddleNLP's: as in the model's training.
        made.backend.save(str(target / 'tokenizer.json'))
    settings.pop('chat_template_file', None)  # a path of the machine that saved it
    for kind, index in (('bos', made.bos_id), ('eos', made.eos_id), ('pad', made.pad_id)):
        if index is not None:
            settings.setdefault(f'{kind}_token', made.token(index))
    if (target / 'tokenizer.json').is_file():
        settings['tokenizer_class'] = FAST
    write_json(target / SETTINGS, settings)
    values = chat_template.read(target)
    if values is None:
        return []
    made = tokenizer.load(target)
    name, whole = chat_template.name_of_paddles(values, made)
    if not name:
        return [
            f'{chat_template.FILE} says what no template here says: it is kept as it is, and the '
            'tokenizer has no chat_template. Name one with --template or data.template.'
        ]
    jinja, note = template_export.export(templates.Template(name, made))
    if jinja is not None:
        write_json(target / SETTINGS, settings | {'chat_template': jinja})
    later = '' if whole else ' for first turns; it writes later ones otherwise'
    return [f'{chat_template.FILE} says what the template {name} says{later}. {note}']


def to_paddle(source: Path, target: Path, family: str) -> list[str]:
    """Writes the tokenizer files that PaddleNLP reads.

    Args:
        source: Hugging Face's directory.
        target: An existing directory that has its `config.json`.
        family: Of the model.
    Returns:
        Sentences about what a person should know.
    """
    copied = huggingface.copy(source, target, COMMON)
    settings = _json(source / SETTINGS)
    settings.pop('chat_template', None)  # PaddleNLP's own file says it
    pieces = OWN[family].pieces
    if pieces:
        if not huggingface.copy(source, target, ('tokenizer.model',)):
            return [f'{source} has no tokenizer.model, without which PaddleNLP has no tokenizer.']
        (target / 'tokenizer.model').rename(target / pieces)
    elif 'vocab.json' not in copied or 'merges.txt' not in copied:
        if not (source / 'tokenizer.json').is_file():
            return [f'{source} has no tokenizer, so there is none in --target.']
        _split(source / 'tokenizer.json', target)
    settings['tokenizer_class'] = OWN[family].tokenizer
    write_json(target / SETTINGS, settings)
    made, notes = tokenizer.load(source), []
    if not pieces and _words(tokenizer.load(target)) != _words(made):
        notes.append(
            "This tokenizer splits words otherwise than PaddleNLP's, whose files cannot say how: "
            'there, texts become other tokens than in training.'
        )
    if chat_template.read(source) is not None:
        huggingface.copy(source, target, (chat_template.FILE,))
    elif made.chat_template is not None:
        name, whole = chat_template.name_of_own(made)
        text = chat_template.paddles(name, made) if whole else None
        if text is None:
            what = f"PaddleNLP's {chat_template.FILE}"
            return [*notes, f'The chat template cannot be said in {what}: left out.']
        (target / chat_template.FILE).write_text(text, 'utf-8')
    return notes


def _words(made: tokenizer.Tokenizer) -> list[Any]:
    """Where a tokenizer cuts a text before it looks words up."""
    before, cut = made.backend.normalizer, made.backend.pre_tokenizer
    text = before.normalize_str(PROBE) if before else PROBE
    return cut.pre_tokenize_str(text) if cut else [text]


def _split(file: Path, target: Path) -> None:
    """`vocab.json` and `merges.txt` from a byte-level `tokenizer.json`."""
    try:
        state = json.loads(Backend.from_file(str(file)).to_str())
    except Exception as error:  # the library raises the bare class
        raise ValueError(f'{file} is not readable ({error}): copy it again.') from error
    model = state['model']
    if model.get('type') != 'BPE':
        raise ValueError(f"{file} is of the kind {model.get('type')}, not BPE as BLOOM's.")
    merges = [m if isinstance(m, str) else ' '.join(m) for m in model['merges']]
    # PaddleNLP drops the first line and what follows the last line break.
    text = '\n'.join(['#version: 0.2', *merges]) + '\n'
    (target / 'merges.txt').write_text(text, 'utf-8')
    vocab = json.dumps(model['vocab'], ensure_ascii=False)
    (target / 'vocab.json').write_text(vocab, 'utf-8')
    added = {
        t['content']: t['id'] for t in state['added_tokens'] if t['content'] not in model['vocab']
    }
    if added:
        write_json(target / 'added_tokens.json', added)


def _json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.is_file() else {}
