"""SentencePiece `tokenizer.model` files, read without protobuf and rebuilt as `tokenizers` objects.

Older LLaMA directories hold nothing else. transformers rebuilds them through a chain of defaults
that has changed with almost every version (no BOS, merges in another order, doubled spaces), so
the few fields that matter are read here and the pipeline is spelled out.
"""

import pathlib
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
BPE = 2
SPACE = '▁'  # how SentencePiece writes a space


class ScoredPiece(NamedTuple):
    """One entry of the vocabulary."""

    text: str
    score: float
    kind: int


class SentencePieceModel(NamedTuple):
    """The fields of a ModelProto that decide how text becomes pieces."""

    pieces: list[ScoredPiece]
    model_type: int
    dummy_prefix: bool
    squeeze_spaces: bool
    charsmap: bytes


def read_model(path: pathlib.Path) -> SentencePieceModel:
    """Reads a SentencePiece model file.

    Args:
        path: The file.
    Returns:
        Its pieces and settings.
    Raises:
        ValueError: the bytes are not such a model.
    Source: google/sentencepiece, src/sentencepiece_model.proto (field numbers).
    """
    pieces, model_type, dummy_prefix, squeeze_spaces, charsmap = [], 1, True, True, b''
    try:
        for number, value in _fields(path.read_bytes()):
            if number == 1:
                fields = dict(_fields(value))
                score = struct.unpack('<f', fields[2])[0] if 2 in fields else 0.0
                pieces.append(ScoredPiece(fields[1].decode('utf-8'), score, fields.get(3, NORMAL)))
            elif number == 2:
                model_type = dict(_fields(value)).get(3, 1)
            elif number == 3:
                fields = dict(_fields(value))
                charsmap = fields.get(2, b'')
                dummy_prefix = bool(fields.get(3, 1))
                squeeze_spaces = bool(fields.get(4, 1))
    except (IndexError, KeyError, struct.error, UnicodeDecodeError, TypeError) as error:
        raise ValueError(
            f'{path} is not a SentencePiece model: it is damaged or another kind of file. '
            'Copy it again.'
        ) from error
    if not pieces:
        raise ValueError(f'{path} holds no pieces: it is empty or truncated. Copy it again.')
    return SentencePieceModel(pieces, model_type, dummy_prefix, squeeze_spaces, charsmap)


def build(model: SentencePieceModel, path: pathlib.Path) -> Tokenizer:
    """The `tokenizers` object that says what SentencePiece says.

    Args:
        model: What `read_model` returned.
        path: Named in errors.
    Returns:
        A tokenizer that adds no BOS by itself; control pieces are its special tokens.
    Raises:
        ValueError: the model is not BPE, or it squeezes white space (no LLaMA does either).
    """
    if model.model_type != BPE or model.squeeze_spaces:
        raise ValueError(
            f"{path} is a SentencePiece model of another kind than LLaMA's (BPE that keeps white "
            'space): only that kind is rebuilt here. Put a tokenizer.json beside it.'
        )
    vocab = {piece.text: index for index, piece in enumerate(model.pieces)}
    unknown = next((p.text for p in model.pieces if p.kind == UNKNOWN), None)
    fallback = any(p.kind == BYTE for p in model.pieces)
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocab,
            merges=_merges(model.pieces, vocab),
            unk_token=unknown,
            fuse_unk=True,
            byte_fallback=fallback,
        )
    )
    steps: list[normalizers.Normalizer] = []
    if model.charsmap:
        steps.append(normalizers.Precompiled(model.charsmap))
    if model.dummy_prefix:
        steps.append(normalizers.Prepend(SPACE))
    steps.append(normalizers.Replace(' ', SPACE))
    tokenizer.normalizer = normalizers.Sequence(steps)  # pyright: ignore[reportAttributeAccessIssue]
    strip = [decoders.Strip(' ', 1, 0)] if model.dummy_prefix else []
    tokenizer.decoder = decoders.Sequence(  # pyright: ignore[reportAttributeAccessIssue]
        [decoders.Replace(SPACE, ' '), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    tokenizer.add_special_tokens(
        [
            AddedToken(p.text, special=True, normalized=False)
            for p in model.pieces
            if p.kind in (UNKNOWN, CONTROL)
        ]
    )
    tokenizer.add_tokens(
        [AddedToken(p.text, normalized=False) for p in model.pieces if p.kind == USER_DEFINED]
    )
    return tokenizer


def _merges(pieces: list[ScoredPiece], vocab: dict[str, int]) -> list[tuple[str, str]]:
    """SentencePiece merges the neighbours whose union has the best score; as an ordered list."""
    usable = {p.text for p in pieces if p.kind == NORMAL}
    ranked: list[tuple[float, int, int, str, str]] = []
    for text, score, kind in pieces:
        if kind != NORMAL:
            continue
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in usable and right in usable:
                ranked.append((-score, vocab[left], vocab[right], left, right))
    # Scores are unique per piece, so a tie is between two cuts of one piece.
    ranked.sort(key=lambda entry: entry[:3])
    return [(left, right) for *_, left, right in ranked]


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """The (field number, int or bytes) pairs of a protobuf message, in order."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(data, at)
        elif wire in (1, 5):
            size = 8 if wire == 1 else 4
            value, at = data[at : at + size], at + size
        elif wire == 2:
            size, at = _varint(data, at)
            value, at = data[at : at + size], at + size
        else:
            raise IndexError(f'wire type {wire}')
        if at > len(data):
            raise IndexError('truncated')
        yield number, value


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
