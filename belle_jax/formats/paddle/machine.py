"""A pickle machine that knows dicts of NumPy arrays and nothing else, over a mapped file.

A pickle is a program. Python's own machine runs any of them and copies every array into memory;
this one has the instructions that a state dict of NumPy arrays is written with, calls nothing but
the functions below, each of which makes an inert object, and leaves the numbers in the file. What
it does not know it refuses by name before anything happens.
Source: the instructions as Lib/pickletools.py of CPython 3.11 describes them, protocols 2 to 5; the
    calls as numpy 1.26 and 2.4 and paddle 3.3 write them.
"""

import dataclasses
import pickletools
import struct
from collections.abc import Callable
from typing import Any

import numpy as np

LONG_TEXT = 1 << 16  # bytes; a longer text holds numbers and stays in the file


class Refused(ValueError):
    """The pickle is damaged, or does what no dict of arrays needs."""


@dataclasses.dataclass(frozen=True)
class Span:
    """Bytes of the file; `latin1`: written as UTF-8 text of Latin-1 characters (protocol 2)."""

    begin: int
    end: int
    latin1: bool = False


@dataclasses.dataclass
class Array:
    """An array as the pickle describes it, filled in when its state comes."""

    shape: tuple[int, ...] = ()
    dtype: np.dtype | None = None
    fortran: bool = False
    data: Span | bytes = b''


@dataclasses.dataclass
class Dtype:
    """A dtype, before and after its byte order is known."""

    numbers: np.dtype


@dataclasses.dataclass(frozen=True)
class Global:
    """A name that the pickle may use, and what calling it makes."""

    name: str
    call: Callable[..., Any] | None = None


def _reconstruct(kind: Any, shape: Any, code: Any) -> Array:
    if not _is_ndarray(kind) or not isinstance(shape, tuple) or not isinstance(code, Span | bytes):
        raise Refused('it makes an array of an unknown kind')
    return Array()


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> Array:
    """How protocol 5 writes an array."""
    if order not in ('C', 'F') or axes is not None:
        raise Refused(f'it has an array in the order {_short(order)}')
    return _filled(Array(), shape, dtype, order == 'F', data)


def _dtype(code: Any, align: Any = False, copy: Any = False) -> Dtype:
    kinds = ('f8', 'f4', 'f2', 'i8', 'i4', 'i2', 'i1', 'u2', 'u1', 'b1')  # u2: Paddle's bfloat16
    if code not in kinds or not isinstance(align, bool) or not isinstance(copy, bool):
        raise Refused(f'it has an array of dtype {_short(code)}, not of numbers')
    return Dtype(np.dtype(code))


def _encode(text: Any, encoding: Any) -> Span | bytes:
    """How protocol 2 writes bytes: as text, of which each character is a byte."""
    if encoding != 'latin1':
        raise Refused(f'it has bytes in the encoding {_short(encoding)}')
    if isinstance(text, Span):
        return dataclasses.replace(text, latin1=True)
    try:
        return text.encode('latin-1')
    except (AttributeError, UnicodeEncodeError) as error:
        raise Refused('it has bytes that are no Latin-1 text') from error


def _ordered() -> dict:
    return {}


def _tuple(items: Any) -> tuple:
    """How Paddle writes a tensor outside of a state dict: (name, array)."""
    if not isinstance(items, tuple):
        raise Refused('it makes a tuple of something else')
    return items


def _allowed() -> dict[tuple[str, str], Global]:
    calls: dict[tuple[str, str], Callable[..., Any] | None] = {
        ('numpy', 'ndarray'): None,
        ('numpy', 'dtype'): _dtype,
        ('_codecs', 'encode'): _encode,
        ('collections', 'OrderedDict'): _ordered,
        ('builtins', 'tuple'): _tuple,
        ('__builtin__', 'tuple'): _tuple,
    }
    for core in ('numpy.core', 'numpy._core'):  # before and since numpy 2
        calls[f'{core}.multiarray', '_reconstruct'] = _reconstruct
        calls[f'{core}.numeric', '_frombuffer'] = _from_buffer
    return {place: Global('.'.join(place), call) for place, call in calls.items()}


ALLOWED = _allowed()


def _short(value: Any) -> str:
    """A value for a message; nested ones could be made to fill the memory."""
    return repr(value[:80]) if isinstance(value, str) else f'a {type(value).__name__}'


def _is_ndarray(value: Any) -> bool:
    return isinstance(value, Global) and value.name == 'numpy.ndarray'


def _filled(array: Array, shape: Any, dtype: Any, fortran: Any, data: Any) -> Array:
    natural = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
    if not natural or not isinstance(dtype, Dtype) or type(fortran) is not bool:
        raise Refused('it has an array with a malformed shape, dtype or order')
    if not isinstance(data, Span | bytes):
        raise Refused(f'it has an array whose numbers are a {type(data).__name__}')
    array.shape, array.dtype, array.fortran, array.data = shape, dtype.numbers, fortran, data
    return array


class Machine:
    """Runs one pickle."""

    def __init__(self, data: np.ndarray) -> None:
        """Args:
        data: The mapped file, uint8.
        """
        self._data = data
        self.position = 0
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        """What the pickle makes: dicts, lists, tuples, texts, numbers, and `Array`s.

        Raises:
            Refused: it is damaged, or asks for what is not allowed; the reason has the byte.
        """
        start = 0
        try:
            while True:
                start = self.position
                code = self._take(1)[0]
                if code == ord('.'):
                    break
                self._step(code)
            if self.position != self._data.size or len(self._stack) != 1 or self._marks:
                raise Refused('it ends before the file does, or in the middle of a value')
            return self._stack[0]
        except IndexError as error:
            raise Refused(f'it takes a value that is not there, at byte {start}') from error
        except Refused as error:
            raise Refused(f'{error}, at byte {start}') from error

    def _step(self, code: int) -> None:
        if code in CONSTANTS:
            return self._push(CONSTANTS[code])
        if code in NUMBERS:
            return self._push(self._number(NUMBERS[code]))
        if code in LENGTHS:
            size, kind = LENGTHS[code]
            return self._push(self._string(self._number(size), kind))
        if code not in STEPS:
            raise Refused(f'it has the instruction {_name(code)}, which no dict of arrays needs')
        return STEPS[code](self)

    # --- reading ---

    def _take(self, count: int) -> bytes:
        begin = self._skip(count)
        return self._data[begin : begin + count].tobytes()

    def _skip(self, count: int) -> int:
        begin = self.position
        if count > self._data.size - begin:
            raise Refused(f'it is truncated: {count} bytes should follow byte {begin}, and only '
                          f'{self._data.size - begin} do')  # fmt: skip
        self.position += count
        return begin

    def _number(self, form: str) -> int:
        return struct.unpack(f'<{form}', self._take(struct.calcsize(f'<{form}')))[0]

    def _string(self, count: int, kind: type) -> Any:
        if kind is bytes or count > LONG_TEXT:
            begin = self._skip(count)
            return Span(begin, begin + count)
        try:
            return self._take(count).decode('utf-8', 'surrogatepass')
        except UnicodeDecodeError as error:
            raise Refused('it has a text that is not UTF-8') from error

    def _line(self) -> str:
        window = self._data[self.position : self.position + 256].tobytes()
        text, newline, _ = window.partition(b'\n')
        if not newline:
            raise Refused('it is truncated in a name')
        self.position += len(text) + 1
        return text.decode('utf-8', 'replace')

    # --- instructions ---

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _mark(self) -> None:
        self._marks.append(len(self._stack))

    def _pop_mark(self) -> list[Any]:
        start = self._marks.pop()
        if start > len(self._stack):
            raise Refused('it takes a value that is not there')
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def _frame(self) -> None:
        self._number('Q')  # how much to read ahead: nothing is read ahead here

    def _protocol(self) -> None:
        if (version := self._take(1)[0]) not in range(2, 6):
            raise Refused(f'it is of protocol {version}; 2 to 5 are read')

    def _long(self) -> None:
        self._push(int.from_bytes(self._take(self._take(1)[0]), 'little', signed=True))

    def _tuple_of(self, count: int) -> None:
        if count > len(self._stack):
            raise Refused('it takes a value that is not there')
        values = tuple(self._stack[-count:])
        del self._stack[-count:]
        self._push(values)

    def _tuple(self) -> None:
        self._push(tuple(self._pop_mark()))

    def _append(self, values: list[Any]) -> None:
        if not isinstance(self._stack[-1], list):
            raise Refused('it appends to what is no list')
        self._stack[-1].extend(values)

    def _set_items(self, values: list[Any]) -> None:
        target = self._stack[-1]
        if not isinstance(target, dict) or len(values) % 2:
            raise Refused('it sets items of what is no dict')
        for key, value in zip(values[::2], values[1::2]):
            if not isinstance(key, str):
                raise Refused(f'it has a {type(key).__name__} for a name')
            if key in target:
                raise Refused(f'it names {_short(key)} twice')
            target[key] = value

    def _set_item(self) -> None:
        pair = [self._stack.pop(), self._stack.pop()]
        self._set_items(pair[::-1])

    def _get(self, index: int) -> None:
        if index not in self._memo:
            raise Refused(f'it recalls a value {index} that was not stored')
        self._push(self._memo[index])

    def _put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def _global(self, module: str, name: str) -> None:
        if (module, name) not in ALLOWED:
            raise Refused(
                f'it asks for {module[:80]}.{name[:80]}, which is no part of a dict of arrays and '
                'was not run'
            )
        self._push(ALLOWED[module, name])

    def _stack_global(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise Refused('it asks for a global that has no name')
        self._global(module, name)

    def _reduce(self) -> None:
        arguments, function = self._stack.pop(), self._stack.pop()
        if not isinstance(function, Global) or function.call is None:
            raise Refused('it calls what cannot be called')
        if not isinstance(arguments, tuple):
            raise Refused(f'it calls {function.name} without arguments')
        try:
            self._push(function.call(*arguments))
        except TypeError as error:
            raise Refused(f'it calls {function.name} with other arguments than known') from error

    def _build(self) -> None:
        state, target = self._stack.pop(), self._stack[-1]
        if isinstance(target, Array) and isinstance(state, tuple) and len(state) == 5:
            _filled(target, *state[1:])
        elif isinstance(target, Dtype) and isinstance(state, tuple) and len(state) == 8:
            if state[1] not in ('<', '|'):
                raise Refused(f'its numbers are in the byte order {_short(state[1])}')
        else:
            raise Refused(f'it sets the state of a {type(target).__name__}')


def _name(code: int) -> str:
    names = {ord(op.code): op.name for op in pickletools.opcodes}
    return names.get(code, f'0x{code:02x}')


CONSTANTS = {ord('N'): None, 0x88: True, 0x89: False, ord(')'): ()}
NUMBERS = {ord('J'): 'i', ord('K'): 'B', ord('M'): 'H'}
LENGTHS = {
    ord('X'): ('I', str),
    0x8C: ('B', str),
    0x8D: ('Q', str),
    ord('B'): ('I', bytes),
    ord('C'): ('B', bytes),
    0x8E: ('Q', bytes),
    0x96: ('Q', bytes),
}
STEPS: dict[int, Callable[[Machine], Any]] = {
    0x80: Machine._protocol,
    0x95: Machine._frame,
    0x8A: Machine._long,
    ord('('): Machine._mark,
    ord('}'): lambda m: m._push({}),
    ord(']'): lambda m: m._push([]),
    ord('t'): Machine._tuple,
    0x85: lambda m: m._tuple_of(1),
    0x86: lambda m: m._tuple_of(2),
    0x87: lambda m: m._tuple_of(3),
    ord('a'): lambda m: m._append([m._stack.pop()]),
    ord('e'): lambda m: m._append(m._pop_mark()),
    ord('s'): Machine._set_item,
    ord('u'): lambda m: m._set_items(m._pop_mark()),
    ord('q'): lambda m: m._put(m._number('B')),
    ord('r'): lambda m: m._put(m._number('I')),
    0x94: lambda m: m._put(len(m._memo)),
    ord('h'): lambda m: m._get(m._number('B')),
    ord('j'): lambda m: m._get(m._number('I')),
    ord('c'): lambda m: m._global(m._line(), m._line()),
    0x93: Machine._stack_global,
    ord('R'): Machine._reduce,
    ord('b'): Machine._build,
}
