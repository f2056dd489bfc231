"""JSON values out of a long text, one by one, each with its line.

A number that Python cannot hold or that JSON does not have makes a bad row, and not a broken file.
"""

import json
import math
import pathlib
import re
from collections.abc import Iterator
from typing import Any, TextIO

from belle_jax.data.fields import BadRow

ROW = 1 << 24  # characters: four million tokens, beyond every context; Python takes 25 times that
LONG = f'it is longer than {ROW:,} characters: no model reads that.'
TOKEN = 16  # characters: no literal, number or escape of JSON that a chunk cut is longer
SPACE = re.compile(r'[ \t\r\n]*')


class RowDecoder(json.JSONDecoder):
    """Reads on behind a number that Python or JSON does not have, and then says so."""

    def __init__(self) -> None:
        self._refused = ''
        super().__init__(parse_int=self._int, parse_float=self._float, parse_constant=self._refuse)

    def raw_decode(self, s: str, idx: int = 0) -> tuple[Any, int]:
        self._refused = ''
        return super().raw_decode(s, idx)

    def checked(self, value: Any) -> Any:
        """The value that was decoded last, or a BadRow."""
        if self._refused:
            return BadRow('broken JSON', f'broken JSON ({self._refused}).')
        return value

    def _int(self, digits: str) -> int:
        try:
            return int(digits)
        except ValueError:
            return self._refuse(f'{digits:.9}…, of {len(digits):,} digits,')

    def _float(self, digits: str) -> float:
        number = float(digits)
        return number if math.isfinite(number) else self._refuse(f'{digits:.20}')

    def _refuse(self, number: str) -> int:
        self._refused = f'{number} is no number that can be read'
        return 0


def decoded(line: bytes, decoder: RowDecoder) -> Any:
    """A line's JSON, or the reason why there is none."""
    try:
        return decoder.checked(decoder.decode(line.decode('utf-8')))
    except UnicodeDecodeError as error:
        byte = line[error.start]
        return BadRow('not UTF-8', f'the byte {byte:#04x} is not UTF-8: convert the file.')
    except json.JSONDecodeError as error:
        return BadRow('broken JSON', f'broken JSON at column {error.colno} ({error.msg}).')
    except RecursionError:
        return BadRow('broken JSON', 'broken JSON: it is nested too deeply.')


class Window:
    """A stretch of a long text that moves on as values are taken from it."""

    def __init__(self, path: pathlib.Path, stream: TextIO, chunk: int) -> None:
        """Takes the file, for errors, its text, and how many characters to read at once."""
        self.at = 0
        self._path, self._stream, self._chunk, self._text = path, stream, chunk, ''
        self._line, self._counted = 1, 0
        self._decoder = RowDecoder()

    def next(self) -> str:
        """The next character that is not white space, which is not taken; '' at the end."""
        while True:
            self.at = SPACE.match(self._text, self.at).end()  # pyright: ignore[reportOptionalMemberAccess]
            if self.at < len(self._text) or not self._read():
                return self._text[self.at : self.at + 1]

    def entries(self, close: str) -> Iterator[None]:
        """Stops at each entry of the array or object here; whoever asks takes the entry."""
        self.next()
        self.at += 1
        more = self.next() != close
        while more:
            yield
            more = self.next() == ','
            if more:
                self.at += 1
                self.next()
            elif self.next() != close:
                raise self.broken(self.at, 'no comma between two entries')
        self.at += 1

    def texts(self) -> Iterator[None]:
        """Stops at each of the values that follow each other up to the end."""
        while self.next():
            yield

    def name(self) -> Any:
        """Takes a field's name and the colon, up to the value."""
        name = self.value()
        if self.next() != ':':
            raise self.broken(self.at, 'no colon after a field')
        self.at += 1
        self.next()
        return name

    def value(self) -> Any:
        """Takes a JSON value; a BadRow stands for one with a number that has no place here."""
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self.at)
            except json.JSONDecodeError as error:
                # What the window's end cut looks broken there; anything else is broken for good,
                # and is said at once instead of after reading the rest of a large file.
                cut = error.pos > len(self._text) - TOKEN or error.msg.startswith('Unterminated')
                offset = error.pos - self.at  # reading on moves the window
                if not cut or not self._read():
                    raise self.broken(self.at + offset, error.msg) from error
            except RecursionError as error:
                raise self.broken(self.at, 'it is nested too deeply') from error
            else:
                length = end - self.at
                # A number near the window's end may go on behind it.
                sure = isinstance(value, dict) or end + TOKEN < len(self._text)
                if sure or not self._read():
                    self.at += length
                    return self._decoder.checked(value)

    def line(self, at: int | None = None) -> int:
        """The line, counted from 1, of a place in the window."""
        at = self.at if at is None else at
        self._line += self._text.count('\n', self._counted, at)
        self._counted = at
        return self._line

    def broken(self, at: int, reason: str) -> ValueError:
        """The error that says what is wrong at a place in the window."""
        end = len(self._text.rstrip())
        what = 'the file ends inside the array' if at >= end else f'broken JSON ({reason})'
        # A cut string is told at its beginning.
        if reason.startswith('Unterminated'):
            what = 'the file ends inside the array, or a quote is missing'
        return ValueError(
            f'{self._path}:{self.line(max(self._counted, min(at, end)))}: {what}: restore or mend '
            'the file.'
        )

    def _read(self) -> bool:
        """Reads on, as much again as is left, so that a long value is not read over and over."""
        if len(self._text) - self.at > ROW:
            raise ValueError(f'{self._path}:{self.line()}: {LONG}')
        fresh = self._stream.read(max(self._chunk, len(self._text) - self.at))
        self.line()
        self._text, self.at, self._counted = self._text[self.at :] + fresh, 0, 0
        return bool(fresh)
