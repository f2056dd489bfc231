"""The tokenizer files of PaddleNLP's directories, and the chat template beside them.

PaddleNLP's `chat_template.json` is no `chat_template` of Hugging Face's: it is an object of Jinja
sources, `system` once at the start, `conversation` for a turn that was answered (the user's part
and the bot's) and `query` for the one that was not. A template of this package says the same if it
writes the same texts for the conversations below, special tokens spelled out.
Source: ChatTemplate in paddlenlp/transformers/tokenizer_utils.py of paddlenlp 2.8.
"""

import functools
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from belle_jax.data import jinja_template, template_export, tokenizer, tokenizer_bounds
from belle_jax.data.records import Message
from belle_jax.data.template_process import RENDERER
from belle_jax.data.templates import Template
from belle_jax.data.tokenizer import Tokenizer
from belle_jax.formats.huggingface import copy, read_settings
from belle_jax.json_files import write_json

SETTINGS, CHAT = 'tokenizer_config.json', 'chat_template.json'
COMMON = ('vocab.json', 'merges.txt', 'added_tokens.json', 'special_tokens_map.json')
# A class that takes tokenizer.json as it is; transformers 5 no longer knows PaddleNLP's names.
FAST = 'PreTrainedTokenizerFast'
# Tokenizers that cut texts into words otherwise do so somewhere here.
PROBE = "你好，世界！这是2024年。It's a test's end...  two  spaces\n\nHuman: 123,456 (x+y)=z; ok?"
NAMES = ('belle', 'belle_card', 'belle_sft', 'alpaca')
TURNS = [[m for m in probe if m['role'] != 'system'] for probe in template_export.PROBES]
PROMPTS = [turns[: end + 1] for turns in TURNS for end in range(0, len(turns), 2)]


def to_huggingface(source: Path, target: Path, pieces: str) -> list[str]:
    """Copies a tokenizer of PaddleNLP's, with what Hugging Face's libraries need beside it.

    Args:
        source: PaddleNLP's directory.
        target: An existing directory that has its `config.json`.
        pieces: What PaddleNLP calls `tokenizer.model`; '' where words and merges are text.
    Returns:
        Sentences about what a person should know.
    """
    copy(source, target, ('tokenizer.json', 'tokenizer.model', SETTINGS, *COMMON, CHAT))
    if pieces and (source / pieces).is_file():
        shutil.copyfile(source / pieces, target / 'tokenizer.model')
    if not any((target / name).is_file() for name in tokenizer.FILES[:3]):
        return [f'{source} has no tokenizer, so there is none in --target.']
    settings, whole = read_settings(target / SETTINGS), target / 'tokenizer.json'
    made = tokenizer.load(target)
    if not pieces and not whole.is_file():
        # How words are split is in no file of PaddleNLP's: as in the model's training.
        made.backend.save(str(whole))
    settings.pop('chat_template_file', None)  # a path of the machine that saved it
    for kind, index in (('bos', made.bos_id), ('eos', made.eos_id), ('pad', made.pad_id)):
        if index is not None:
            settings.setdefault(f'{kind}_token', made.token(index))
    if whole.is_file():
        settings['tokenizer_class'] = FAST
    write_json(target / SETTINGS, settings)
    values = _paddles_template(target)
    if not values:
        return []
    made = tokenizer.load(target)
    name, always = _name(functools.partial(_filled, values), made)
    if not name:
        return [
            f'{CHAT} says what no template here says: it is kept as it is, and the tokenizer has '
            'no chat_template. Name one with --template or data.template.'
        ]
    jinja, note = template_export.export(Template(name, made))
    if jinja is not None:
        write_json(target / SETTINGS, settings | {'chat_template': jinja})
    later = '' if always else ' for first turns; it writes later ones otherwise'
    return [f'{CHAT} says what the template {name} says{later}. {note}']


def to_paddle(source: Path, target: Path, pieces: str, tokenizer_class: str) -> list[str]:
    """Writes the tokenizer files that PaddleNLP reads from those of a Hugging Face directory.

    The arguments and what is returned are as in `to_huggingface`; the class is PaddleNLP's.
    """
    copied = copy(source, target, COMMON)
    settings = read_settings(source / SETTINGS)
    settings.pop('chat_template', None)  # PaddleNLP's own file says it
    if pieces:
        if not (source / 'tokenizer.model').is_file():
            return [f'{source} has no tokenizer.model, without which PaddleNLP has no tokenizer.']
        shutil.copyfile(source / 'tokenizer.model', target / pieces)
    elif 'vocab.json' not in copied or 'merges.txt' not in copied:
        if not (source / 'tokenizer.json').is_file():
            return [f'{source} has no tokenizer, so there is none in --target.']
        _split(source / 'tokenizer.json', target)
    write_json(target / SETTINGS, settings | {'tokenizer_class': tokenizer_class})
    made, notes = tokenizer.load(source), []
    if not pieces and _words(tokenizer.load(target)) != _words(made):
        notes.append(
            "This tokenizer splits words otherwise than PaddleNLP's, whose files cannot say how: "
            'there, texts become other tokens than in training.'
        )
    if _paddles_template(source):
        copy(source, target, (CHAT,))
    elif made.chat_template is not None:
        if (text := _as_paddles(made)) is None:
            return [*notes, f"The chat template cannot be said in PaddleNLP's {CHAT}: left out."]
        (target / CHAT).write_text(text, 'utf-8')
    return notes


def _words(made: Tokenizer) -> list[Any]:
    """Where a tokenizer cuts a text before it looks words up."""
    before, cut = made.backend.normalizer, made.backend.pre_tokenizer
    text = before.normalize_str(PROBE) if before else PROBE
    return cut.pre_tokenize_str(text) if cut else [text]


def _split(file: Path, target: Path) -> None:
    """`vocab.json` and `merges.txt` from a byte-level `tokenizer.json`."""
    tokenizer_bounds.check(file)
    with tokenizer_bounds.explained(file):
        state = json.loads(Backend.from_file(str(file)).to_str())
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


# --- chat templates -------------------------------------------------------------------------------


def _paddles_template(directory: Path) -> dict[str, Any]:
    """PaddleNLP's template; empty where there is none, or the file is Hugging Face's."""
    values = read_settings(directory / CHAT)
    return values if {'conversation', 'query'} & values.keys() else {}


def _as_paddles(tokenizer: Tokenizer) -> str | None:
    """A tokenizer's own template as PaddleNLP's file; None where its format cannot say it."""
    ids = {'bos_token': tokenizer.bos_id, 'eos_token': tokenizer.eos_id}
    spelled = {name: tokenizer.token(i) for name, i in ids.items() if i is not None}
    own = functools.partial(
        jinja_template.render, tokenizer.chat_template or '', generate=True, **spelled
    )
    name, always = _name(own, tokenizer)
    if not always:
        return None
    template = Template(name, tokenizer)
    before, after = template.style.user.split('{}')
    start = _spelled(template, [{'role': 'user', 'content': ''}]).removesuffix(before + after)
    values: dict[str, Any] = {'system': start} if start else {}
    eos = tokenizer.token(tokenizer.eos_id)
    values['conversation'] = [before + '{{user}}' + after, '{{bot}}' + eos]
    values['query'] = before + '{{query}}' + after
    if _name(functools.partial(_filled, values), tokenizer) != (name, True):
        return None
    return json.dumps(values, indent=4, ensure_ascii=False) + '\n'


def _name(write: Callable[[list[Message]], str], tokenizer: Tokenizer) -> tuple[str, bool]:
    """The template of this package that writes the same, and whether it does in later turns, too.

    '' if none writes a first prompt so.
    """

    def same(template: Template, prompts: list[list[Message]]) -> bool:
        try:
            return all(write(prompt) == _spelled(template, prompt) for prompt in prompts)
        except Exception:  # a stranger's template refuses them, divides by zero, or worse
            return False

    made = [Template(name, tokenizer) for name in NAMES]
    first = [template.name for template in made if same(template, PROMPTS[:1])]
    always = [template.name for template in made if same(template, PROMPTS)]
    return next(iter(always + first), ''), bool(always)


def _spelled(template: Template, messages: Sequence[Message]) -> str:
    pieces = (piece.content for piece in template.pieces(messages))
    return ''.join(p if isinstance(p, str) else template.tokenizer.token(p) for p in pieces)


def _filled(values: dict[str, Any], messages: Sequence[Message]) -> str:
    """What PaddleNLP writes with its template."""

    def fill(source: str, **given: Any) -> str:
        return RENDERER.render(source, {'is_training': False, **given}, paddle=True)

    *turns, query = [m['content'] for m in messages]
    out = '' if values.get('system') is None else fill(values['system'])
    for index, (user, bot) in enumerate(zip(turns[::2], turns[1::2])):
        place = {'index': index, 'is_first': index == 0, 'is_last': False}
        out += ''.join(fill(s, user=user, bot=bot, **place) for s in values['conversation'])
    if values.get('query') is None:
        return out + query
    return out + fill(values['query'], query=query, index=len(turns) // 2)
