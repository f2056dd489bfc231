"""Replies made of numbered, labelled fields, as BELLE's `4. 指令: … 4. 输入: … 4. 输出: …`.

Each of BELLE's rules is here, with what it loses mended: tasks that nothing separates are all read,
not the first alone; a heading or a line of ### inside an answer does not cut it; what a chat
model says before its list does not become part of an instruction; a label is looked for at the
beginning of a line first, so that "根据输入:" inside a sentence is text. JSON with these fields is
read as well. Each rejected piece keeps its text and a named reason: 'no labels', 'missing label',
'empty field', 'broken JSON', 'truncated'.
"""

import dataclasses
import re
from collections.abc import Iterator
from typing import NamedTuple

from belle_jax.synthesis import json_replies
from belle_jax.texts.filters import Row

COLON = '[:：﹕︰∶]'
MARK = r'(?:\*\*|__)?'
NUMBER = r'\d+[ \t]*[.、．:：)）]|[(（]\d+[)）]|[①-⑳]|[一二三四五六七八九十]+、'
FENCE = re.compile(r'^[ \t]*(?:```|~~~)', re.M)
WRAPPED = re.compile(
    r'\A\s*(?:```|~~~)[ \t]*(?:text|txt|markdown|md|plaintext|plain)?[ \t]*\n', re.I
)
# BELLE's, and what chat models write instead: rules and headings ("**任务 4：**").
SEPARATOR = re.compile(
    r'^[ \t]*#{3,}[ \t]*$|(?<!#)#{3,}[ \t]*\Z|^[ \t]*-{3,}[ \t]*$|'
    r'^[ \t]*#*[ \t]*(?:\*\*)?(?:任务|示例|Task|Example)[ \t]*[\d一二三四五六七八九十]+[ \t]*'
    r'[:：.]?(?:\*\*)?[:：]?[ \t]*$',
    re.M | re.I,
)
# The number of the next label stays behind where a stop string ended the reply.
LEFT_NUMBER = re.compile(r'\n[ \t]*#*[ \t]*\d+[ \t]*[.、．][ \t]*\Z')
NO_INPUT = re.compile(
    r'[<＜〈《(（【\[]?\s*(?:无输入|没有输入|无需输入|不需要输入|无|空|no ?input|none|n/?a)\s*'
    r'[>＞〉》)）】\]]?\s*[。.]?',
    re.I,
)


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One piece of a reply.

    Attributes:
        row: The row, in the layout of its kind; None if the piece was rejected.
        rejected: The reason in a few words, the same for all such pieces, for counting.
        detail: The rejected piece's text, for people.
    """

    row: Row | None
    rejected: str = ''
    detail: str = ''


def refused(reason: str, text: str) -> Candidate:
    """A rejected piece: the reason, and the whole text that was rejected."""
    return Candidate(None, reason, text.strip())


class FoundLabel(NamedTuple):
    """Where a label stands in a text: its field, from start to end, and its number."""

    field: str
    start: int
    end: int
    number: str


class TaskFields:
    """The fields of one kind's tasks: how they are labelled, and reading them from a reply."""

    def __init__(self, **labels: tuple[str, ...]) -> None:
        """Names the fields in the order in which they are written.

        Args:
            labels: For each field its spellings; the first field opens a task.
        """
        self.names = tuple(labels)
        spelled = '|'.join(
            f'(?P<{name}>{"|".join(spellings)})' for name, spellings in labels.items()
        )
        self._keys = '|'.join(spelling for known in labels.values() for spelling in known)
        self._spelled = re.compile(spelled, re.I)
        space = r'[ \t]*'
        label = rf'{MARK}{space}(?:{spelled})(?P<after>{space}\d+)?{space}{MARK}{space}'
        # A label in bold, or with a number, that ends its line needs no colon.
        bare = rf'(?:(?<=\*\*)|(?(number)|(?!)))(?={space}$)'
        self._line = re.compile(
            rf'^{space}#*{space}>?{space}{MARK}{space}(?P<number>{NUMBER}|\d+)?{space}{label}'
            rf'(?:{COLON}{space}{MARK}|{bare})',
            re.M | re.I,
        )
        self._inline = re.compile(
            rf'(?<![\d.])(?P<number>{NUMBER}){space}{label}{COLON}{space}{MARK}', re.I
        )
        self._anywhere = re.compile(rf'(?P<number>)(?:{spelled})(?P<after>)[ \t]*{COLON}', re.I)

    def read(self, text: str, cut: bool = False, opening: str = '') -> list[Candidate]:
        """The tasks of a reply, in order.

        Args:
            text: The reply.
            cut: Whether it ended early, so that its last task is not whole.
            opening: The label with which the prompt ended; put back if the reply goes on from it.
        Returns:
            Rows of the fields, and rejected pieces.
        """
        text = plain(text)
        if pieces := json_replies.pieces(text, self._keys, self._line):
            return [self._of_json(piece) for piece in pieces]
        whole = not text.strip() or bool(re.search(r'(?:\A|\n)[ \t]*#{3,}[ \t]*\Z', text.rstrip()))
        first = next(self._line.finditer(text), None) or next(self._anywhere.finditer(text), None)
        if opening and first is not None and not first[self.names[0]]:
            text = opening + text
        read: list[Candidate] = []
        for piece in self._pieces(text):
            read += self._tasks(piece)
        if any(candidate.rejected != 'no labels' for candidate in read):
            # What comes before the list ("好的，以下是…") is not a piece that anybody lost.
            read = read[read[0].rejected == 'no labels' :]
        if cut and read and not whole:
            fields = (f'{name}: {value}' for name, value in (read[-1].row or {}).items())
            read[-1] = refused('truncated', read[-1].detail or '\n'.join(fields))
        return read

    def _pieces(self, text: str) -> Iterator[str]:
        """The text cut at separators that stand outside code, or before the next task."""
        separators = list(SEPARATOR.finditer(text))
        ends = [match.start() for match in separators[1:]] + [len(text)]
        last = fences = counted = 0
        for number, (match, end) in enumerate(zip(separators, ends), 1):
            following = text[match.end() : end].lstrip()
            label = self._line.match(following)
            opens = label is not None and label[self.names[0]] is not None
            fences += len(FENCE.findall(text, counted, match.start()))
            counted = match.start()
            # A rule of ### inside an answer has more of that answer behind it, and then the next
            # task; a piece of its own has a label, or is what ends the reply.
            own = (
                label or not following or number == len(separators) or self._line.search(following)
            )
            if opens or ('#' in match[0] and fences % 2 == 0 and own):
                yield text[last : match.start()]
                last, fences = match.end(), 0
        yield text[last:]

    def _tasks(self, piece: str) -> Iterator[Candidate]:
        if not piece.strip():
            return
        labels = list(self._labels(piece))
        starts = self._starts(labels, piece)
        if not starts:
            yield refused('no labels', piece)
            return
        if piece[: labels[starts[0]].start].strip(' \t\n#'):
            yield refused('no labels', piece[: labels[starts[0]].start])
        for start, end in zip(starts, starts[1:] + [len(labels)]):
            stop = labels[end].start if end < len(labels) else len(piece)
            yield self._task(piece, labels[start:end], stop)

    def _labels(self, piece: str) -> Iterator[FoundLabel]:
        """Labels at line starts and numbered ones anywhere; if fields lack, those in sentences."""
        found = {match.start(): match for match in self._inline.finditer(piece)}
        for match in self._line.finditer(piece):
            for at in range(match.start(), match.end()):
                found.pop(at, None)
            found[match.start()] = match
        seen = {name for match in found.values() for name in self.names if match[name]}
        if len(seen) < len(self.names):
            taken = {at for match in found.values() for at in range(*match.span())}
            for match in self._anywhere.finditer(piece):
                name = next(name for name in self.names if match[name])
                if match.start() not in taken and name not in seen:
                    seen.add(name)
                    found[match.start()] = match
        for start in sorted(found):
            match = found[start]
            name = next(name for name in self.names if match[name])
            number = match['number'] or match['after'] or ''
            yield FoundLabel(name, start, match.end(), re.sub(r'\W', '', number))

    def _starts(self, labels: list[FoundLabel], piece: str) -> list[int]:
        """Which labels open a task.

        The first field's do if they are numbered or have another field behind them: an answer may
        hold the word. Another field's does if its number is new and the task has that field
        already: then the label that should have opened it is missing.
        """
        starts: list[int] = []
        seen: set[str] = set()
        for at, label in enumerate(labels):
            following = labels[at + 1] if at + 1 < len(labels) else None
            first = label.field == self.names[0]
            opens = not starts or (
                label.number != '' or (following is not None and following.field != label.field)
                if first
                else label.field in seen and label.number not in ('', labels[starts[-1]].number)
            )
            if opens:
                starts.append(at)
                seen = set()
            seen.add(label.field)
        return starts

    def _task(self, piece: str, labels: list[FoundLabel], stop: int) -> Candidate:
        text = piece[labels[0].start : stop]
        numbered = [label for label in labels if label.number == labels[0].number]
        if {label.field for label in numbered} == set(self.names):
            labels = numbered  # a program's "输入：5" is not a label where labels are "4. 输入："
        order: list[FoundLabel] = []
        for label in labels:
            # In an answer 输入 and 输出 are words like others: each field counts once, in order.
            expected = self.names[len(order)] if len(order) < len(self.names) else ''
            if label.field == expected:
                order.append(label)
        if len(order) < len(self.names):
            return refused('missing label', text)
        ends = [label.start for label in order[1:]] + [stop]
        row = {label.field: tidy(piece[label.end : end]) for label, end in zip(order, ends)}
        return self._candidate(row, text)

    def _of_json(self, piece: json_replies.JsonPiece) -> Candidate:
        if piece.rejected:
            return refused(piece.rejected, piece.text)
        row = {'input': ''} if 'input' in self.names else {}
        for key, value in piece.value.items():
            if match := self._spelled.fullmatch(key):
                row[str(match.lastgroup)] = json_replies.as_text(value).strip()
        if row.keys() < set(self.names):
            return refused('missing label', piece.text)
        return self._candidate({name: row[name] for name in self.names}, piece.text)

    def _candidate(self, row: Row, text: str) -> Candidate:
        if 'input' in row and NO_INPUT.fullmatch(row['input']):
            row['input'] = ''
        if any(not value for name, value in row.items() if name != 'input'):
            return refused('empty field', text)
        return Candidate(row)


def plain(text: str) -> str:
    """A reply's text: line ends as \\n, nothing invisible, no fence around the whole."""
    text = text.replace('\r\n', '\n').replace('\r', '\n')
    text = re.sub('[\ufeff\u200b-\u200d\u2060]', '', text)
    if not (fence := WRAPPED.match(text)):
        return text
    rest = text[fence.end() :]
    closed = re.search(r'\n[ \t]*(?:```|~~~)[ \t]*\s*\Z', rest)
    if closed and len(FENCE.findall(rest)) % 2 == 1:
        return rest[: closed.start()]
    # A fence that was opened and never closed: the reply was cut.
    return rest if len(FENCE.findall(rest)) % 2 == 0 else text


def tidy(text: str) -> str:
    """A field's text without the separator, number or lone fence that belongs to what follows."""
    text = text.strip()
    while True:
        before = text
        text = re.sub(r'\n[ \t]*(?:#{3,}|-{3,})[ \t]*\Z|(?<!#)#{3,}\Z', '', text).rstrip()
        text = LEFT_NUMBER.sub('', text)
        if len(FENCE.findall(text)) % 2 == 1:
            text = re.sub(r'(?:\n|\A)[ \t]*(?:```|~~~)[ \t]*\Z', '', text).rstrip()
        text = re.sub(r'\n?\*\*\Z', '', text) if text.count('**') % 2 else text
        if text == before:
            return text


TASK = TaskFields(
    instruction=('任务指令', '指令', 'instruction'),
    input=('输入', 'input'),
    output=('输出', 'output'),
)
