"""Replies that are conversations: lines of `用户：…` and `助手：…`, or of two characters."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from belle_jax.synthesis import json_replies
from belle_jax.synthesis.parsing import COLON, FENCE

# Between two conversations in one reply: a rule, or a heading such as "**对话 2：**".
BREAK = re.compile(
    r'^[ \t]*(?:#{3,}|-{3,}|={3,}|\*{3,})[ \t]*$|'
    r'^[ \t]*#*[ \t]*(?:\*\*)?(?:第[ \t]*[\d一二三四五六七八九十]+[ \t]*[组段个]对话|'
    r'(?:对话|会话|Conversation|Dialogue)[ \t]*[\d一二三四五六七八九十]*)[ \t]*[:：]?'
    r'(?:\*\*)?[:：]?[ \t]*$',
    re.M | re.I,
)
# JSON: a list of turns by itself, or as a field of an object; each turn has a speaker and a text.
LISTS = 'messages|conversations?|dialogues?|turns|lines|对话'
SPEAKER, TEXT = 'role|from|speaker|name|角色|说话人', 'content|value|text|line|内容|台词'


class Turn(NamedTuple):
    """Who says what; the speaker as in the mapping that was given to `read`."""

    speaker: str
    text: str


class Speakers:
    """Reads turns by the names of those who speak."""

    def __init__(self, names: Mapping[str, Sequence[str]], others: bool = False) -> None:
        """Fixes the names.

        Args:
            names: Each speaker's spellings, as lines begin; case is ignored.
            others: Whether a line that begins with another short name is a turn too: it is how a
                third person in a dialogue of two is seen.
        """
        self._names = {
            spelling.lower(): speaker
            for speaker, spellings in names.items()
            for spelling in spellings
        }
        known = '|'.join(sorted(map(re.escape, self._names), key=len, reverse=True))
        other = r'|[^\W\d_]{1,8}|[A-Z][a-z]{1,15}' if others else ''
        self._label = re.compile(
            r'^[ \t]*(?:[-*>•][ \t]+)?(?:\d+[.、)）][ \t]*)?(?:\*\*|[【\[「])?[ \t]*'
            rf'(?P<name>{known}{other})[ \t]*\d*[ \t]*'
            rf'(?:[(（][^()（）\n]{{1,20}}[)）])?[ \t]*(?:\*\*|[】\]」])?[ \t]*'
            rf'{COLON}[ \t]*(?:\*\*)?',
            re.M | re.I,
        )

    def conversations(self, text: str, cut: bool) -> Iterator[tuple[str, list[Turn], bool]]:
        """The conversations of a reply.

        Args:
            text: The reply.
            cut: Whether it ended early.
        Yields:
            Each as it was written, its turns, and whether the last of them is not whole.
        """
        found = json_replies.pieces(text, f'{LISTS}|{SPEAKER}', self._label)
        if not found:
            pieces = list(self.pieces(text))
            for number, piece in enumerate(pieces, 1):
                yield piece, self.read(piece), cut and number == len(pieces)
        single: list[Turn] = []  # turns that stand alone: of one conversation
        for piece in found:
            listed = next((v for v in piece.value.values() if isinstance(v, list)), None)
            if listed is not None:
                yield piece.text, [turn for each in listed for turn in self._turn(each)], False
            else:
                single += self._turn(piece.value) or [Turn('', '')]
        if single:
            yield text, single, bool(found[-1].rejected)

    def _turn(self, value: Any) -> list[Turn]:
        """A turn of JSON, or none where it has no speaker and text."""
        found = [
            json_replies.as_text(next((v for k, v in value.items() if re.fullmatch(keys, k)), ''))
            for keys in (SPEAKER, TEXT)
            if isinstance(value, dict)
        ]
        if not found or not found[0]:
            return []
        return [Turn(self._names.get(found[0].lower(), found[0]), found[1].strip())]

    def pieces(self, text: str) -> Iterator[str]:
        """The conversations of a reply, as texts; what has no turn is left out."""
        breaks = list(BREAK.finditer(text))
        ends = [match.start() for match in breaks[1:]] + [len(text)]
        last = fences = counted = 0
        for match, end in zip(breaks, ends):
            fences += len(FENCE.findall(text, counted, match.start()))
            counted = match.start()
            following = text[match.end() : end].strip()
            # A rule inside an answer has more of the answer behind it, not a turn.
            begun = self._label.search(text, last, match.start()) is not None
            goes_on = following and not self._label.match(following)
            if fences % 2 or (begun and goes_on):
                continue
            if begun:
                yield text[last : match.start()].strip('\n')
            last, fences = match.end(), 0
        if self._label.search(text, last):
            yield text[last:].strip('\n')

    def read(self, text: str) -> list[Turn]:
        """The turns of one conversation.

        Args:
            text: One piece.
        Returns:
            The turns in order; a speaker who is not known has their own name. What stands before
            the first turn is left out.
        """
        labels = []
        fences = counted = 0
        for match in self._label.finditer(text):
            fences += len(FENCE.findall(text, counted, match.start()))
            counted = match.start()
            if fences % 2 == 0:  # not inside code
                labels.append(match)
        turns = []
        for match, following in zip(labels, [*labels[1:], None]):
            end = following.start() if following else len(text)
            name = str(match['name'])
            turns.append(Turn(self._names.get(name.lower(), name), text[match.end() : end].strip()))
        return turns
