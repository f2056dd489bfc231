"""What a judge's reply says: the score of an answer, or which of two answers is the better one.

A careful person looks for what a reply claims, weighs where a claim stands (JSON and 最终得分 over
得分, and that over the score of a part or a number in passing), and reads a score only if the
weightiest claims agree. What cannot be read is asked again, so nothing is guessed: a wrong score
would stay unseen.
"""

import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from belle_jax.judging import claims, preferences
from belle_jax.judging.claims import FINAL, STATED, Claim
from belle_jax.judging.marks import EMPHASIS, MARK, Scales, plain, score, spoken, without_scales

KEY = re.compile(
    rf'(?P<final>(?:{claims.LAST}|final|overall|total|average)[ _]?'
    '(?:得分|评分|评价|分数?|score|rating)?)|得分|评分|分数|score|rating',
    re.I,
)
SCALE_KEY = re.compile(r'满分|max(?:imum)?[ _]?(?:score)?|(?:score[ _])?scale|out[ _]of', re.I)
REASONS = re.compile(
    r'reason(?:s|ing)?|rationale|explanation|analysis|comments?|理由|原因|分析|评语', re.I
)
OBJECT = re.compile(r'\{\s*["\'“]')
SHORT = re.compile(
    r"""["'“”]([^"'“”\n]{1,20})["'“”]\s*:\s*(?:["'“”]([^"'“”\n]{1,20})["'“”]|([^\s"'“”,}]+))\s*[,}\n]"""
)
DECODER = json.JSONDecoder(strict=False)


class Verdict(NamedTuple):
    """A judge's verdict on an answer.

    Attributes:
        score: 0 to 1; None if it cannot be read.
        reason: The judge's reasons; without a score what could not be read, as a clause that can be
            told to the judge.
    """

    score: float | None
    reason: str


def parse(text: str) -> Verdict:
    """Reads the score out of a judge's reply.

    - A number from 0 to 1 is the score, also as 零点八, 0.8分 or 0.8/1; 一分 and 满分 are 1, and
      零分 is 0.
    - With a scale it is a share of it: 9/10, 80%, 百分之八十, 8 out of ten, 八分（满分十分）.
    - A number above 1 of no stated scale (8, 85, 八分, 十分), a negative one, or one beyond its
      scale is unparsed; so is a bound (低于0.5), a word (良好), a refusal, a repeated prompt.
    - A range counts as its middle; one as wide as the scale (得分应在0到1之间) states the scale.
    - JSON and 最终得分, 总分, Overall stand over 得分 and Score, these over the scores of parts and
      numbers in a sentence; a correction stands over all. Claims of one weight that differ are
      unparsed, and so is a 得分 that contradicts the JSON.
    - Where a reply was cut within a number (得分：0. or {"score": 0.7) it is unparsed: digits may
      have followed. What a model thought before its reply (<think>) is not read.

    Args:
        text: The whole reply.
    Returns:
        The verdict.
    """
    told, shown = _objects(spoken(text))
    objects, rest = _objects(plain(spoken(text)))
    rest, scales = without_scales(rest)
    found = [claim for value in objects for claim in _of_object(value, scales)]
    others = [*claims.written(rest, scales)]
    stated = {claim.value for claim in others if claim.weight == STATED}
    if found and len(stated) == 1:
        # Several are those of parts; a single one says what the JSON says, or contradicts it.
        others += [claim._replace(weight=FINAL) for claim in others if claim.weight == STATED]
    chosen, problem = _agreed([*found, *others])
    reasons = [shown.strip(), *(text for value in told or objects for text in _reasons(value))]
    return Verdict(chosen, problem or '\n'.join(filter(None, reasons)))


def parse_pair(text: str) -> str | None:
    """Reads out of a judge's reply which of two answers, A and B, is the better one.

    JSON ({"winner": "A"}), a named winner and [[A]] stand over 回答A更好 and A is better, and these
    over what is said of one aspect; claims of one weight that differ are unparsed.

    Args:
        text: The whole reply.
    Returns:
        'A', 'B', 'tie', or None if it cannot be read.
    """
    objects, rest = _objects(plain(spoken(text)))
    found = [*preferences.written(EMPHASIS.sub(' ', rest))]
    for value in objects:
        for key in value if isinstance(value, dict) else ():
            if preferences.KEY.fullmatch(key.strip()):
                said = value[key] if isinstance(value[key], str) else ''
                found.append(Claim(FINAL, preferences.side(said), said))
    return _agreed(found)[0]


def _agreed(found: list[Claim]) -> tuple[Any, str]:
    """What the weightiest claims agree in, or None and why not."""
    if not found:
        return None, 'it names no score'
    weight = max(claim.weight for claim in found)
    top = [claim for claim in found if claim.weight == weight]
    values = {claim.value for claim in top} - {None}
    shown = ', '.join(dict.fromkeys(claim.shown for claim in top))
    if not values:
        return None, f'it says {shown}, which is neither from 0 to 1 nor a share of a stated scale'
    if len(values) > 1:
        return None, f'it says {shown}, and not which of these is final'
    return values.pop(), ''


def _objects(text: str) -> tuple[list[Any], str]:
    """The JSON objects of a text, in order, and the text without them and their fences.

    Of one that is broken or was cut, the keys with short values are read, and nothing else: what
    stands in its reasons is not outside of it.
    """
    found, kept, at = [], [], 0
    while begin := OBJECT.search(text, at):
        kept.append(text[at : begin.start()])
        try:
            value, at = DECODER.raw_decode(text, begin.start())
        except (ValueError, RecursionError):
            at = text.rfind('}', begin.start()) + 1 or len(text)
            pairs = SHORT.findall(text[begin.start() : at])
            value = {key: quoted or bare for key, quoted, bare in pairs}
        found.append(value)
    kept.append(text[at:])
    return found, re.sub(r'```(?:json)?\s*(?:```|\Z)', '', ''.join(kept), flags=re.I)


def _of_object(value: Any, scales: Scales) -> Iterator[Claim]:
    """The claims of a JSON value: of its own keys, or else of those inside."""
    if not isinstance(value, dict):
        return
    keys = {key: match for key in value if (match := KEY.fullmatch(key.strip()))}
    tops = [value[key] for key in value if SCALE_KEY.fullmatch(key.strip())]
    top = next((float(n) for n in tops if isinstance(n, int | float) and n), None)
    for key in [key for key in keys if keys[key]['final']] or keys:
        if isinstance(value[key], dict):
            yield from _of_object(value[key], scales)
        else:
            yield _of_value(value[key], top, scales)
    for inner in () if keys else value.values():
        yield from _of_object(inner, scales)


def _of_value(value: Any, top: float | None, scales: Scales) -> Claim:
    """The claim of a JSON number, or of text that is a mark as a reply would be."""
    shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text, own = without_scales(shown)
    match = MARK.match(text.strip())
    whole = match and not re.search(r'[^\W_]', text.strip()[match.end() :])
    read = score(match, top or own.only, scales.only) if match and whole else None
    return Claim(FINAL, read if read is None else round(read, 6), shown)


def _reasons(value: Any) -> Iterator[str]:
    for key, text in value.items() if isinstance(value, dict) else ():
        if REASONS.fullmatch(key.strip()):
            yield text if isinstance(text, str) else json.dumps(text, ensure_ascii=False)
