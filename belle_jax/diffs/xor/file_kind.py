"""Whether bytes can be a file of that name: what its first and last bytes say, without running it.

A file that was decrypted with the wrong key looks right for a while where the two keys are alike:
all of Meta's checkpoints begin with the same bytes. So more than a magic number is looked at.
"""

import codecs
import enum
import json
import pickletools
import re
import struct
from pathlib import Path

HEAD = 256 * 2**10  # bytes looked at; the pickle of a large model's shard has about half of that
TAIL = 2**16 + 22  # a zip file's end record stands within them

_CONTROL = re.compile('[\x00-\x08\x0b\x0c\x0e-\x1f]')


Verdict = enum.Enum('Verdict', 'UNKNOWN WRONG_START WRONG_END RIGHT')
"""What the first and last bytes say; UNKNOWN: of no known kind."""


def judge(name: str, head: bytes, tail: bytes, size: int) -> Verdict:
    """Looks at both ends of a file.

    Args:
        name: Of the file; its suffix says what it is.
        head: Its first HEAD bytes, or all of it.
        tail: Its last TAIL bytes, or all of it.
        size: Bytes of the whole.
    """
    match Path(name).suffix.lower() if size else '':
        case '.bin' | '.pt' | '.pth':
            return _torch(head, tail)
        case '.safetensors':
            return _safetensors(head, size)
        case '.json':
            return _json(head, tail)
        case '.model':  # SentencePiece: a protocol buffer whose first field is a piece
            return Verdict.RIGHT if head[0] == 0x0A else Verdict.WRONG_START
    return Verdict.UNKNOWN


def _torch(head: bytes, tail: bytes) -> Verdict:
    if head[:2] == b'\x80\x02':  # as PyTorch wrote before 1.6: a pickle first, nothing at the end
        return Verdict.RIGHT
    if head[:4] != b'PK\x03\x04' or len(head) < 30:
        return Verdict.WRONG_START
    method, name_size, extra_size = struct.unpack('<8xH16xHH', head[:30])
    name = head[30 : 30 + name_size]
    if not _is_text(name):
        return Verdict.WRONG_START
    pickled = head[30 + name_size + extra_size :]
    if name.endswith(b'/data.pkl') and method == 0 and not _is_pickle(pickled):
        return Verdict.WRONG_START
    return Verdict.RIGHT if b'PK\x05\x06' in tail else Verdict.WRONG_END


def _is_pickle(content: bytes) -> bool:
    """Reads it opcode by opcode, executing none; it may be cut off."""
    try:
        for _ in pickletools.genops(content):
            pass
    except UnicodeDecodeError:
        return False
    except (ValueError, OverflowError) as error:
        return 'unknown' not in str(error)  # other errors: it goes on beyond what we have
    return True


def _safetensors(head: bytes, size: int) -> Verdict:
    length = int.from_bytes(head[:8], 'little')
    text = head[8 : 8 + length]
    if len(head) < 8 or length > 100_000_000 or text[:1] != b'{' or not _is_text(text):
        return Verdict.WRONG_START
    if len(text) < length:  # the header is longer than what we have
        return Verdict.RIGHT if 8 + length <= size else Verdict.WRONG_END
    try:
        tensors = [v for k, v in json.loads(text).items() if k != '__metadata__']
        end = max((int(t['data_offsets'][1]) for t in tensors), default=0)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError):
        return Verdict.WRONG_START
    return Verdict.RIGHT if 8 + length + end == size else Verdict.WRONG_END


def _json(head: bytes, tail: bytes) -> Verdict:
    last = {b'{': b'}', b'[': b']'}.get(head.removeprefix(codecs.BOM_UTF8).lstrip()[:1])
    if not last or not _is_text(head):
        return Verdict.WRONG_START
    return Verdict.RIGHT if tail.rstrip().endswith(last) else Verdict.WRONG_END


def _is_text(content: bytes) -> bool:
    """Whether it is UTF-8 without control characters; the last character may be cut off."""
    try:
        return not _CONTROL.search(codecs.getincrementaldecoder('utf-8')().decode(content))
    except UnicodeDecodeError:
        return False
