"""What a response holds: the answer, the thoughts before it, why it ended, what was counted."""

import json
import re
from dataclasses import dataclass, field
from typing import Any

from belle_jax.api.request import Failure, is_whole

# Reasons that tell of a failure of the server: DeepSeek's, Zhipu's, vLLM's, and `error` of many.
BROKEN = re.compile('error|insufficient|abort', re.I)
# How reasoning models mark what is not yet the answer: most; Kimi; Sky-T1; gpt-oss.
NAMES = '(?:think|thinking|thought|reasoning)'
MARK = re.compile(
    rf'<{NAMES}>|◁think▷|<\|begin_of_thought\|>|<\|channel\|>analysis<\|message\|>|'
    rf'(?P<close></{NAMES}>|◁/think▷|<\|end_of_thought\|>|'
    r'<\|end\|><\|start\|>assistant<\|channel\|>final<\|message\|>)',
    re.I,
)
# Fields beside the content in which servers give it: DeepSeek's and vLLM's; OpenRouter's.
THOUGHTS = ('reasoning_content', 'reasoning')
STREAM = re.compile(rb'\s*(?:data|event|id):')
PAGE = re.compile(rb'\s*<(?:!doctype|html|head|body)', re.I)


@dataclass(frozen=True)
class Answer:
    """What a response holds.

    Attributes:
        text: The first choice's, without what the model thought before.
        finish_reason: As the server says, but 'unfinished thoughts' for those, and 'refusal' for
            words of refusal in a field of their own.
        usage: What the server counted.
        thoughts: What the model thought before it answered, if the server gives it.
    """

    text: str
    finish_reason: str | None
    usage: dict[str, Any] = field(default_factory=dict)
    thoughts: str = ''


def read_answer(content: bytes) -> Answer:
    """Reads the body of a response with status 200.

    Args:
        content: The bytes, of either endpoint.
    Returns:
        The answer.
    Raises:
        Failure: for half a JSON, a page, a stream, no choices, or an error sent as a success.
    """
    start = _whole(' '.join(content[:200].decode('utf-8', 'replace').split()))
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        raise Failure('bad JSON', start, advice=_advice(content)) from None
    if not isinstance(body, dict):
        raise Failure('bad JSON', start)
    usage = body.get('usage')
    usage = usage if isinstance(usage, dict) else {}
    choices = body.get('choices')
    if not choices and body.get('error'):
        said = _whole(json.dumps(body['error'], ensure_ascii=False)[:200])
        raise Failure('error in reply', said, usage=usage)
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise Failure('empty choices', start, usage=usage)
    choice = choices[0]
    reason = choice.get('finish_reason')
    reason = None if reason is None else _whole(str(reason))[:100]
    if reason and BROKEN.search(reason):
        raise Failure(f'answer ended by {reason}', usage=usage)
    message = choice.get('message')
    message = message if isinstance(message, dict) else {'content': choice.get('text')}
    text = _text(message.get('content'))
    thoughts = next(filter(None, (_text(message.get(name)) for name in THOUGHTS)), '')
    if not text and message.get('refusal'):
        # A content of null is an answer too: the model declined, or a filter took it away.
        text, reason = _text(message['refusal']), 'refusal'
    said, text, open_ended = split_thoughts(text)
    thoughts = '\n'.join(filter(None, (thoughts, said)))
    if open_ended and is_whole(reason):
        reason = 'unfinished thoughts'
    return Answer(text, reason, usage, thoughts)


def split_thoughts(text: str) -> tuple[str, str, bool]:
    """Takes a reasoning model's drafts out of its answer.

    A draft begins at the beginning of a line, or, where the server swallowed its opening mark, with
    the text. A draft in a draft is part of it.

    Args:
        text: As it came.
    Returns:
        The drafts, the answer, and whether the last draft does not end.

        '<think>几个?</think>\\n两个' -> ('几个?', '两个', False)
        '几个?</think>两个' -> ('几个?', '两个', False)
        '<think>几个' -> ('几个', '', True)
    """
    drafts: list[str] = []
    kept: list[str] = []
    at = depth = mentions = 0
    last: re.Match[str] | None = None  # the last closing mark of the draft that is read
    for mark in MARK.finditer(text):
        closes, before = mark['close'] is not None, text[at : mark.start()]
        begins_line = not before.rpartition('\n')[2].strip()
        if depth:
            depth += -1 if closes else 1
            last = mark if closes else last
            if not depth:
                drafts.append(before)
                at = mark.end()
        elif not closes and begins_line and before.count('```') % 2 == 0:
            kept.append(before)
            at, depth, last = mark.end(), 1, None
        elif not closes:
            mentions += 1  # an answer about such marks
        elif mentions or kept or drafts:
            mentions = max(0, mentions - 1)
        else:
            drafts.append(before)
            at = mark.end()
    if depth and last:
        drafts.append(text[at : last.start()])
        at, depth = last.end(), 0
    (drafts if depth else kept).append(text[at:])
    answer = ''.join(kept).strip() if drafts else text
    return '\n'.join(draft.strip() for draft in drafts), answer, depth > 0


def _text(content: Any) -> str:
    """A content, which is a text, a list of parts, or nothing."""
    if isinstance(content, list):
        content = ''.join(str(p.get('text') or '') for p in content if isinstance(p, dict))
    return _whole(str(content or ''))


def _whole(text: str) -> str:
    """The text with lone surrogates marked, as of a cut emoji: no file, no database takes them."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')
    return text


def _advice(content: bytes) -> str:
    """What to do about a body that is not JSON."""
    if STREAM.match(content):
        return 'the server sends streams alone: turn streaming off there.'
    if PAGE.match(content):
        return 'it answers with a web page: check the address, which for most servers ends in /v1.'
    return ''
