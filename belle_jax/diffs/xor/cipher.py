"""BELLE's XOR diffs: a file that is worth nothing without the original that it was made with.

`<name>.<64 hex>.enc` holds 32 bytes, the SHA-256 of the plaintext, which its name repeats in hex,
and the plaintext XORed with a key file. Payload and key are read in chunks of 10 MiB in lock-step;
a short last chunk of the key is repeated until that chunk of the payload is full, and then the key
begins again. So this is a cyclic key only where its size is a multiple of 10 MiB.

Source: BELLE, models/decrypt.py, after point-alpaca.
"""

import contextlib
import dataclasses
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from belle_jax.diffs.xor import blocks, file_kind
from belle_jax.diffs.xor.blocks import Sink, Tell
from belle_jax.diffs.xor.checksums import Checksums, is_plain, shown
from belle_jax.diffs.xor.file_kind import Verdict
from belle_jax.files import whole_file

CHUNK = 10 * 2**20  # bytes of payload and key, in lock-step
DIGEST = 32  # bytes of a SHA-256


class Key:
    """The file that others are XORed with, endlessly; threads may share it."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise ValueError(f'--key={path} is not a file: give the original that the model names.')
        if not (size := self.path.stat().st_size):
            raise ValueError(f'--key={path} is empty: download it again.')
        self._file = self.path.open('rb', buffering=0)
        self._chunks = -(-size // CHUNK)
        self._last = np.empty(size % CHUNK, np.uint8)  # a short last chunk, repeated
        if len(self._last):
            self._read(self._last, size - len(self._last))
            self._last = np.resize(self._last, CHUNK)

    def __enter__(self) -> 'Key':
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def xor(self, block: np.ndarray, place: int, out: np.ndarray) -> None:
        """Puts a block of the payload, uint8 [n] from byte `place` on, into `out`, XORed."""
        done = 0
        while done < len(out):
            number, at = divmod(place + done, CHUNK)
            number %= self._chunks
            piece = out[done : done + CHUNK - at]
            if number == self._chunks - 1 and len(self._last):
                piece[:] = self._last[at : at + len(piece)]
            else:
                self._read(piece, number * CHUNK + at)
            done += len(piece)
        np.bitwise_xor(block, out, out=out)

    def _read(self, out: np.ndarray, start: int) -> None:
        if blocks.read(self._file.fileno(), out, start) != len(out):
            raise ValueError(f'--key={self.path} became shorter while it was read.')


@dataclasses.dataclass(frozen=True)
class Encrypted:
    """A file of that format, with name, SHA-256 (in hex) and size (in bytes) of its plaintext."""

    path: Path
    name: str
    sha256: str
    size: int


def split_name(name: str) -> tuple[str, str] | None:
    """`<name>.<64 hex>.enc` -> name and hex in lower case; None where it is not such a name."""
    found = re.fullmatch(r'(.+)\.([0-9a-fA-F]{64})\.enc', name, re.DOTALL)
    return (found[1], found[2].lower()) if found else None


def examine(path: Path) -> Encrypted:
    """Reads name and first bytes; a ValueError says what is wrong with them."""
    if not (parts := split_name(path.name)):
        raise ValueError(
            f'{shown(path)} is not named <name>.<64 hexadecimal digits>.enc: rename it as it was '
            'published.'
        )
    name, digest = parts
    if not is_plain(name):
        raise ValueError(f'{shown(path)} holds {name!r}, which is not a plain file name: refused.')
    with path.open('rb') as file:
        header = file.read(DIGEST)
        size = path.stat().st_size - DIGEST
    if size < 0:
        raise ValueError(
            f'{shown(path)} is cut short: it has {len(header)} bytes and begins with a checksum of '
            f'{DIGEST}. Download it again.'
        )
    if header.hex() != digest:
        raise ValueError(
            f'{shown(path)} is damaged or renamed: it begins with the checksum {header.hex()}, '
            'and its name has another. Download it again.'
        )
    return Encrypted(path, name, digest, size)


def judge(path: Path, name: str, key: Key | None = None) -> Verdict:
    """Whether both ends of a file, decrypted where there is a key, fit a name."""
    start = DIGEST if key else 0
    size = path.stat().st_size - start

    def piece(place: int, most: int) -> bytes:
        block = np.fromfile(path, np.uint8, most, offset=start + place)
        if key:
            key.xor(block.copy(), place, block)
        return block.tobytes()

    tail = piece(max(0, size - file_kind.TAIL), file_kind.TAIL)
    return file_kind.judge(name, piece(0, file_kind.HEAD), tail, size)


def decrypt(encrypted: Encrypted, key: Key, target: Path | None, tell: Tell) -> Checksums:
    """Writes the plaintext, which appears under its name only when it is right.

    Args:
        target: The file to write; None only checks.
    Raises:
        ValueError: the SHA-256 is wrong.
    """
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with contextlib.ExitStack() as stack:
        writes = [stack.enter_context(_writing(target))] if target else []
        sinks = (md5.update, *writes, sha256.update)
        size = blocks.stream(encrypted.path, (), tell, DIGEST, key.xor, sinks)
        if sha256.hexdigest() != encrypted.sha256:
            raise ValueError(
                f'{shown(encrypted.path)} does not decrypt to the SHA-256 in its name: '
                f'{_reason(encrypted, key)}. Nothing was kept of it; compare both files with their '
                'published checksums.'
            )
    return Checksums(size, sha256.hexdigest(), md5.hexdigest(), encrypted.path.name)


def _reason(encrypted: Encrypted, key: Key) -> str:
    """What a wrong SHA-256 can come from."""
    match judge(encrypted.path, encrypted.name, key):
        case Verdict.UNKNOWN:
            return f'--key={key.path} is not what it was made with, or it is damaged'
        case Verdict.WRONG_START:
            return (
                f'it does not begin as a {Path(encrypted.name).suffix} file does, so --key='
                f'{key.path} is most likely not what it was made with'
            )
        case Verdict.WRONG_END:
            return 'it begins rightly and does not end so: it, or the key, is cut short or damaged'
    return (
        'its beginning and end are right, so the key is most likely the right one, and it or the '
        'key is damaged in between'
    )


def digest(source: Path, tell: Tell) -> str:
    """The SHA-256 of a file, which its encrypted form's name will have."""
    sha256 = hashlib.sha256()
    blocks.stream(source, [sha256.update], tell)
    return sha256.hexdigest()


def encrypt(source: Path, sha256: str, key: Key, target: Path, tell: Tell) -> Checksums:
    """Writes the encrypted file of a plaintext, which is read a second time after `digest`.

    One reading would do for the file, but not for its md5, which begins with the checksum.

    Raises:
        ValueError: the plaintext is not what it was.
    """
    plain, encrypted = hashlib.sha256(), hashlib.sha256()
    md5 = hashlib.md5(usedforsecurity=False)
    with _writing(target) as write:
        for sink in (sinks := (md5.update, write, encrypted.update)):
            sink(bytes.fromhex(sha256))
        size = blocks.stream(source, [plain.update], tell, 0, key.xor, sinks)
        if plain.hexdigest() != sha256:
            raise ValueError(f'{shown(source)} changed while it was read: give it again.')
    return Checksums(DIGEST + size, encrypted.hexdigest(), md5.hexdigest(), source.name)


@contextlib.contextmanager
def _writing(target: Path) -> Iterator[Sink]:
    with whole_file(target) as file, blocks.writing(file) as write:
        yield write


def is_made_from(encrypted: Path, source: Path, key: Key) -> bool:
    """Whether size, first and last bytes are those that the source and the key give."""
    size = source.stat().st_size
    if encrypted.stat().st_size != DIGEST + size:
        return False
    for place in (0, max(0, size - blocks.BLOCK)):
        ours = np.fromfile(source, np.uint8, blocks.BLOCK, offset=place)
        theirs = np.fromfile(encrypted, np.uint8, blocks.BLOCK, offset=DIGEST + place)
        key.xor(theirs.copy(), place, theirs)
        if not np.array_equal(ours, theirs):
            return False
    return True
