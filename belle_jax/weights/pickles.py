"""Pickles read without running them: PyTorch's files are pickles, and so are Paddle's.

A pickle is a program. Python's own machine runs any of them, copies every byte string into memory,
and takes gigabytes where 400 bytes tell it to. This one has the instructions that Python 3 writes a
dict of tensors with, calls nothing but what its caller allows, each of which makes an inert object,
and leaves byte strings in the file. What it does not know it refuses by name before anything
happens. No instruction takes more memory than a few hundred bytes, and their number is bounded.
Source: the instructions as Lib/pickletools.py of CPython 3.11 describes them, protocols 2 to 5.
"""

import dataclasses
import pickle
import pickletools
import struct
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

LONG_TEXT = 256  # bytes; a longer text is not a name: it holds numbers, and stays in the file
STEPS_MAX = 2_000_000  # instructions; a tensor takes 40, and large models have 1,000 in a file
KEYS = (str, int, float, type(None))  # hashed at once, while nested tuples can take for ever


class Unreadable(ValueError):
    """The pickle is damaged, or does what no dict of tensors needs."""


@dataclasses.dataclass(frozen=True)
class Span:
    """Bytes of the file from `begin` to `end`: a byte string's, or a long text's."""

    begin: int
    end: int


@dataclasses.dataclass(frozen=True)
class Global:
    """A name that the pickle may use, with its module."""

    name: str
    meaning: Any  # what calling it does, or, if it cannot be called, what it stands for


class Inert:
    """What allowed functions make."""

    __slots__ = ()

    def build(self, state: Any) -> None:
        """Takes the state that the pickle gives it."""
        raise Unreadable(f'it sets the state of a {type(self).__name__}')


class InertDict(dict, Inert):
    """A dict of which PyTorch also stores attributes (`_metadata`): they are dropped."""

    __slots__ = ()

    def __init__(self):
        super().__init__()

    def build(self, state: Any) -> None:
        """Drops them."""


def load(
    data: np.ndarray,
    allowed: Mapping[str, Any],
    persistent: Callable[[Any], Any] | None = None,
    start: int = 0,
) -> tuple[Any, int]:
    """Reads one pickle.

    Args:
        data: The mapped file, uint8.
        allowed: By name with its module, what a global means: a function, which makes an inert
            object or raises `Unreadable`, or anything that cannot be called.
        persistent: Makes an object of a persistent id; None: there are none.
        start: The byte at which the pickle begins.
    Returns:
        What the pickle makes of dicts, lists, tuples, texts, numbers, `Span`s for byte strings and
        long texts, `Global`s, and what the functions made; and the byte at which it ends.
    Raises:
        Unreadable: it is damaged, or asks for what is not allowed; the reason has the byte.
    """
    machine = _Machine(data, allowed, persistent, start)
    return machine.run(), machine.position


def brief(value: Any) -> str:
    """A value for a message; nested ones could be made to fill the memory."""
    return repr(value[:80]) if isinstance(value, str) else f'a {type(value).__name__}'


@dataclasses.dataclass
class _Machine:
    """Runs one pickle; the readers of `pickletools` take it for the file."""

    data: np.ndarray
    allowed: Mapping[str, Any]
    persistent: Callable[[Any], Any] | None
    position: int
    stack: list[Any] = dataclasses.field(default_factory=list)
    marks: list[int] = dataclasses.field(default_factory=list)
    memo: dict[int, Any] = dataclasses.field(default_factory=dict)

    def run(self) -> Any:
        at = self.position
        try:
            for _ in range(STEPS_MAX):
                at = self.position
                code = self.read(1)
                name = OPCODES[code].name if code in OPCODES else f'0x{code.hex()}'
                if name == 'STOP':
                    if len(self.stack) != 1 or self.marks:
                        raise Unreadable('it ends in the middle of a value')
                    return self.stack[0]
                if name not in STEPS:
                    raise Unreadable(
                        f'it has the instruction {name}, which no dict of tensors needs'
                    )
                STEPS[name](self, self._argument(OPCODES[code]))
            raise Unreadable(f'it has more than {STEPS_MAX:,} instructions, which no model needs')
        except IndexError as error:
            raise Unreadable(f'it takes a value that is not there, at byte {at}') from error
        except Unreadable as error:
            raise Unreadable(f'{error}, at byte {at}') from error

    # --- reading ---

    def read(self, count: int) -> bytes:
        span = self._skip(count)
        return self.data[span.begin : span.end].tobytes()

    def _skip(self, count: int) -> Span:
        begin, left = self.position, self.data.size - self.position
        if count > left:
            raise Unreadable(
                f'it is truncated: {count} bytes should follow byte {begin}, and only {left} do'
            )
        self.position += count
        return Span(begin, begin + count)

    def _line(self) -> str:
        line, newline, _ = self.data[self.position : self.position + 256].tobytes().partition(b'\n')
        if not newline:
            raise Unreadable('it is truncated in a name')
        self.position += len(line) + 1
        return line.decode('utf-8', 'replace')

    def _argument(self, opcode: pickletools.OpcodeInfo) -> Any:
        if opcode.name == 'GLOBAL':
            return self._line(), self._line()
        if opcode.name not in LENGTHS:
            return opcode.arg and opcode.arg.reader(self)  # pyright: ignore[reportArgumentType]
        length = int.from_bytes(self.read(LENGTHS[opcode.name]), 'little')
        if 'BYTE' in opcode.name or length > LONG_TEXT:
            return self._skip(length)
        try:
            return self.read(length).decode('utf-8', 'surrogatepass')
        except UnicodeDecodeError as error:
            raise Unreadable('it has a text that is not UTF-8') from error

    # --- instructions ---

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self, count: int | None = None) -> list[Any]:
        """The last values, or those since the last mark."""
        start = self.marks.pop() if count is None else len(self.stack) - count
        if not 0 <= start <= len(self.stack):
            raise IndexError(start)
        values, self.stack[start:] = self.stack[start:], []
        return values

    def protocol(self, version: int) -> None:
        if version not in range(2, 6):
            raise Unreadable(f'it is of protocol {version}; 2 to 5 are read')

    def append(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise Unreadable('it appends to what is not a list')
        self.stack[-1].extend(values)

    def set_items(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict) or len(values) % 2:
            raise Unreadable('it sets items of what is not a dict')
        for key, value in zip(values[::2], values[1::2]):
            if not isinstance(key, KEYS):
                raise Unreadable(f'it has a {type(key).__name__} for a name')
            if key in target:
                raise Unreadable(f'it names {brief(key)} twice')
            target[key] = value

    def put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise Unreadable(f'it recalls a value {index} that was not stored')
        self.push(self.memo[index])

    def bring(self, module: Any, name: Any) -> None:
        full = f'{module}.{name}' if isinstance(module, str) and isinstance(name, str) else '?'
        if full not in self.allowed:
            raise Unreadable(
                f'it asks for {full[:160]}, which is not part of a dict of tensors and was not run'
            )
        self.push(Global(full, self.allowed[full]))

    def call(self, function: Any, arguments: Any) -> None:
        if not isinstance(function, Global) or not callable(function.meaning):
            raise Unreadable('it calls what cannot be called')
        if not isinstance(arguments, tuple):
            raise Unreadable(f'it calls {function.name} without arguments')
        try:
            self.push(function.meaning(*arguments))
        except TypeError as error:
            raise Unreadable(f'it calls {function.name} with other arguments than known') from error

    def build(self, target: Any, state: Any) -> None:
        if not isinstance(target, Inert):
            raise Unreadable(f'it sets the state of a {type(target).__name__}')
        target.build(state)
        self.push(target)

    def refer(self, pid: Any) -> None:
        if self.persistent is None:
            raise Unreadable('it has the instruction BINPERSID, which no dict of tensors needs')
        self.push(self.persistent(pid))


OPCODES = {opcode.code.encode('latin-1'): opcode for opcode in pickletools.opcodes}
# Bytes of the length that stands before a text or a byte string.
LENGTHS = {'SHORT_BINUNICODE': 1, 'BINUNICODE': 4, 'BINUNICODE8': 8}
LENGTHS |= {'SHORT_BINBYTES': 1, 'BINBYTES': 4, 'BINBYTES8': 8, 'BYTEARRAY8': 8}
STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    'PROTO': _Machine.protocol,
    'FRAME': lambda m, size: None,  # how much to read ahead: nothing is read ahead here
    'MARK': lambda m, _: m.marks.append(len(m.stack)),
    'NONE': lambda m, _: m.push(None),
    'NEWTRUE': lambda m, _: m.push(True),
    'NEWFALSE': lambda m, _: m.push(False),
    **dict.fromkeys(('BININT', 'BININT1', 'BININT2', 'LONG1', 'BINFLOAT'), _Machine.push),
    **dict.fromkeys(LENGTHS, _Machine.push),
    'EMPTY_DICT': lambda m, _: m.push({}),
    'EMPTY_LIST': lambda m, _: m.push([]),
    'EMPTY_TUPLE': lambda m, _: m.push(()),
    'TUPLE': lambda m, _: m.push(tuple(m.pop())),
    'TUPLE1': lambda m, _: m.push(tuple(m.pop(1))),
    'TUPLE2': lambda m, _: m.push(tuple(m.pop(2))),
    'TUPLE3': lambda m, _: m.push(tuple(m.pop(3))),
    'APPEND': lambda m, _: m.append(m.pop(1)),
    'APPENDS': lambda m, _: m.append(m.pop()),
    'SETITEM': lambda m, _: m.set_items(m.pop(2)),
    'SETITEMS': lambda m, _: m.set_items(m.pop()),
    'MEMOIZE': lambda m, _: m.put(len(m.memo)),
    **dict.fromkeys(('BINPUT', 'LONG_BINPUT'), _Machine.put),
    **dict.fromkeys(('BINGET', 'LONG_BINGET'), _Machine.get),
    'GLOBAL': lambda m, names: m.bring(*names),
    'STACK_GLOBAL': lambda m, _: m.bring(*m.pop(2)),
    'REDUCE': lambda m, _: m.call(*m.pop(2)),
    'BUILD': lambda m, _: m.build(*m.pop(2)),
    'BINPERSID': lambda m, _: m.refer(*m.pop(1)),
}


# --- writing --------------------------------------------------------------------------------------


def bring(module: str, name: str) -> bytes:
    """The instruction that brings a global."""
    return pickle.GLOBAL + f'{module}\n{name}\n'.encode()


def text(value: str) -> bytes:
    """The instruction that brings a text."""
    return pickle.BINUNICODE + struct.pack('<I', len(value.encode())) + value.encode()


def integer(value: int) -> bytes:
    """The instruction that brings a number below 2^63."""
    if value < 2**31:
        return pickle.BININT + struct.pack('<i', value)
    return pickle.LONG1 + b'\x08' + struct.pack('<q', value)


def group(*items: bytes) -> bytes:
    """The instructions that bring a tuple of what the items bring."""
    return pickle.MARK + b''.join(items) + pickle.TUPLE
