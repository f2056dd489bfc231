"""A named template as Hugging Face `chat_template` source, checked against transformers.

`apply_chat_template` tokenises one long text in which special tokens are spelled out; a template
here tokenises pieces. The two agree only where the tokenizer treats the seams alike, so the source
is run through transformers and compared by token ids before anybody is given it.
"""

import json
import os
from typing import Any

from belle_jax.data.template_process import STANDING
from belle_jax.data.templates import Style, Template
from belle_jax.data.tokenizer import Tokenizer

# Punctuation, both scripts and line breaks at the seams, where tokenizers disagree first.
PROBES: list[list[dict[str, str]]] = [
    [
        {'role': 'user', 'content': '你好，你是谁？'},
        {'role': 'assistant', 'content': '我是一个助手。'},
        {'role': 'user', 'content': 'What is 2+2?'},
        {'role': 'assistant', 'content': 'It is 4.'},
        {'role': 'user', 'content': '谢谢'},
        {'role': 'assistant', 'content': '不客气！\n再见'},
    ],
    [
        {'role': 'system', 'content': '你是一个助手。'},
        {'role': 'user', 'content': 'Hello there'},
        {'role': 'assistant', 'content': '"Hi"'},
        {'role': 'user', 'content': '1, 2, 3'},
        {'role': 'assistant', 'content': '4'},
    ],
]
MOVES = (
    f' It writes the date of the day, which stood at {STANDING:%Y-%m-%d} in training and moves '
    'where transformers renders it.'
)
SPECIALS = 'special tokens that a user types are read as such by apply_chat_template, never here'


def source(style: Style, *, answer_space: bool, turn_space: bool, bos: bool) -> str:
    """Jinja source of a template.

    Args:
        style: How it writes.
        answer_space: Whether an answer begins with a space (a text of its own, to LLaMA).
        turn_space: Whether a turn after a special token needs one for the same reason.
        bos: Whether BOS stands at the start.
    Returns:
        The source, on one line.
    """
    before, after = (json.dumps(part, ensure_ascii=False) for part in style.user.split('{}'))
    system = json.dumps(style.system.split('{}')[1], ensure_ascii=False)
    preamble = json.dumps(style.preamble[0], ensure_ascii=False)
    first = json.dumps(' ' if turn_space and bos else '')
    later = json.dumps(' ' if turn_space else '')
    answer = json.dumps(' ' if answer_space else '')
    user = f'state.start + {before} + m["content"] + {after}'
    reply = f'{answer} + m["content"] + eos_token'
    if style.card:
        user += (
            ' if loop.index0 == state.last else state.start + "Human:" + m["content"] + ' + after
        )
        reply += ' if loop.index0 > state.last else m["content"]'
        later = '""'
    return ''.join(
        (
            '{%- set state = namespace(system=' + preamble + ', last=-1, start="") -%}',
            '{%- set turns = messages -%}',
            '{%- if messages and messages[0]["role"] == "system" -%}',
            '{%- set state.system = messages[0]["content"] -%}',
            '{%- set turns = messages[1:] -%}',
            '{%- endif -%}',
            '{%- for m in turns -%}{%- if m["role"] == "user" -%}',
            '{%- set state.last = loop.index0 -%}{%- endif -%}{%- endfor -%}',
            '{{- bos_token -}}' if bos else '',
            '{%- set state.start = ' + first + ' + (state.system + ' + system,
            ' if state.system else "") -%}',
            '{%- for m in turns -%}',
            '{%- if m["role"] == "user" -%}{{- ' + user + ' -}}{%- set state.start = ' + later,
            ' -%}',
            '{%- elif m["role"] == "assistant" -%}{{- ' + reply + ' -}}',
            '{%- else -%}{{- raise_exception("only user and assistant turns follow the system ',
            'message") -}}{%- endif -%}',
            '{%- endfor -%}',
        )
    )


def export(template: Template) -> tuple[str | None, str]:
    """A template as a Hugging Face `chat_template`, if transformers makes the same tokens of it.

    Args:
        template: With its tokenizer.
    Returns:
        Jinja source, and a sentence about what it cannot say; None and the reason where the prompt
        of a first turn already differs from what training saw.
    """
    if template.own:
        moves = MOVES if 'strftime_now' in template.own.source else ''
        return template.own.source, "The tokenizer's own." + moves
    tokenizer, style = template.tokenizer, template.style
    # It would tell everybody who has no torch that there is none, which nobody needs here.
    os.environ.setdefault('TRANSFORMERS_NO_ADVISORY_WARNINGS', '1')
    from transformers import AutoTokenizer

    try:
        theirs = AutoTokenizer.from_pretrained(str(tokenizer.directory), trust_remote_code=False)
    except Exception as error:  # published quirks end in every kind of exception there
        name = type(error).__name__
        reason = f'transformers does not load the tokenizer ({name}), so nothing could check it.'
        return None, reason
    spaced = tokenizer.continuing is not tokenizer.backend
    text = source(
        style,
        answer_space=spaced and not style.continued,
        turn_space=spaced and not _spaced_after_special(theirs, tokenizer),
        bos=style.bos and tokenizer.adds_bos,
    )
    for probe in PROBES:
        turns = [i + 1 for i, m in enumerate(probe) if m['role'] == 'user']
        for number, end in enumerate(turns):
            made = theirs.apply_chat_template(
                probe[:end], chat_template=text, return_dict=True, add_generation_prompt=True
            )
            if list(made['input_ids']) == template.prompt(probe[:end]):
                continue
            if number == 0:
                return None, (
                    f'{template.name} with this tokenizer: apply_chat_template makes other tokens '
                    'of a first prompt than training saw.'
                )
            return text, (
                'Only first turns are the same tokens as in training: in later ones the tokenizer '
                f'treats the seams between turns otherwise; and {SPECIALS}.'
            )
    return text, f'The same tokens as in training, except that {SPECIALS}.'


def _spaced_after_special(theirs: Any, tokenizer: Tokenizer) -> bool:
    """Whether transformers puts LLaMA's dummy space in front of text after a special token."""
    eos = tokenizer.token(tokenizer.eos_id)
    return theirs.encode(f'{eos}a', add_special_tokens=False)[1:] == tokenizer.encode('a')
