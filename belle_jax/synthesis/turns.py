"""Replies that are conversations: lines of `用户：…` and `助手：…`, or of two characters."""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from belle_jax.synthesis.parsing import COLON, FENCE

# Between two conversations in one reply: a rule, or a heading such as "**对话 2：**".
BREAK = re.compile(
    r'^[ \t]*(?:#{3,}|-{3,}|={3,}|\*{3,})[ \t]*$|'
    r'^[ \t]*#*[ \t]*(?:\*\*)?(?:第[ \t]*[\d一二三四五六七八九十]+[ \t]*[组段个]对话|'
    r'(?:对话|会话|Conversation|Dialogue)[ \t]*[\d一二三四五六七八九十]*)[ \t]*[:：]?'
    r'(?:\*\*)?[:：]?[ \t]*$',
    re.M | re.I,
)


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
