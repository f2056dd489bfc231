"""SentencePiece `tokenizer.model` files, as `tokenizers` objects or run by their own library.

Older LLaMA directories hold nothing else. transformers rebuilds them through a chain of defaults
that has changed with almost every version (no BOS, merges in another order, doubled spaces), so
the few fields that matter are read here and the pipeline is spelled out. What a list of merges
cannot say (pieces of equal score, squeezed spaces, other algorithms than BPE) SentencePiece's own
library encodes.
"""

import collections
import hashlib
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

from belle_jax.json_files import JSON_MAX

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
BPE = 2
LONGEST, LONGEST_RUN = 1000, 64  # characters; LLaMA's longest has 16, and merges go by the square
SPACE = '▁'  # how SentencePiece writes a space
# Appended to a ModelProto, which merges it: normalizer_spec { add_dummy_prefix: false } and, for
# the second, remove_extra_whitespaces: false.
NO_DUMMY_PREFIX = b'\x1a\x02\x18\x00'
KEEP_SPACES = b'\x1a\x02\x20\x00'


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

    @property
    def has_list(self) -> bool:
        """Whether the model is BPE that keeps its spaces, so that a list of merges may say it."""
        return self.model_type == BPE and not self.squeeze_spaces

    @property
    def spells_itself(self) -> bool:
        """Whether each character of a piece is a piece: SentencePiece joins others, too, which a
        list of merges cannot."""
        normal = {piece.text for piece in self.pieces if piece.kind == NORMAL}
        return normal.issuperset(letter for text in normal for letter in text)

    def tied(self) -> list[str]:
        """Pieces that share a score with others.

        Of neighbours whose unions have the best score SentencePiece joins the leftmost; a list of
        merges puts one union before the other, wherever it stands. Vocabularies that were merged
        from two models have many such pieces.
        """
        merged = [p for p in self.pieces if p.kind == NORMAL and len(p.text) > 1]
        count = collections.Counter(piece.score for piece in merged)
        return [piece.text for piece in merged if count[piece.score] > 1]


def read_model(path: pathlib.Path) -> SentencePieceModel:
    """Reads a SentencePiece model file.

    Args:
        path: The file.
    Returns:
        Its pieces and settings.
    Raises:
        ValueError: the bytes are not such a model.
    """
    from google.protobuf.message import DecodeError

    try:
        if path.stat().st_size > JSON_MAX:
            raise TypeError
        model = _proto(path)
        # A piece that is not UTF-8 comes as bytes, which no text can be added to.
        pieces = [ScoredPiece('' + p.piece, p.score, p.type) for p in model.pieces]
    except (DecodeError, TypeError) as error:
        raise ValueError(
            f'{path} is not a SentencePiece model: it is damaged or another kind of file. '
            'Copy it again.'
        ) from error
    if not pieces:
        raise ValueError(f'{path} holds no pieces: it is empty or truncated. Copy it again.')
    if len({p.text for p in pieces}) < len(pieces) or max(len(p.text) for p in pieces) > LONGEST:
        raise ValueError(
            f'{path} holds a piece twice, or one of more than {LONGEST} characters: it is damaged. '
            'Copy it again.'
        )
    spec = model.normalizer_spec
    return SentencePieceModel(
        pieces,
        model.trainer_spec.model_type,
        spec.add_dummy_prefix,
        spec.remove_extra_whitespaces,
        spec.precompiled_charsmap,
    )


def write_model(source: pathlib.Path, target: pathlib.Path, pieces: Sequence[ScoredPiece]) -> None:
    """Writes a model file with the settings of another and pieces of its own."""
    model = _proto(source)
    del model.pieces[:]
    for piece in pieces:
        model.pieces.add(piece=piece.text, score=piece.score, type=piece.kind)
    model.trainer_spec.vocab_size = len(pieces)
    model.trainer_spec.byte_fallback = any(piece.kind == BYTE for piece in pieces)
    # Samples that the library would refuse the model for: a field that its newer messages lack.
    model.DiscardUnknownFields()
    if 'self_test_data' in model.DESCRIPTOR.fields_by_name:
        model.ClearField('self_test_data')
    target.write_bytes(model.SerializeToString())


def _proto(path: pathlib.Path) -> Any:
    from sentencepiece import sentencepiece_model_pb2

    model: Any = sentencepiece_model_pb2.ModelProto()  # pyright: ignore[reportAttributeAccessIssue]
    model.ParseFromString(path.read_bytes())
    return model


class Encoder:
    """SentencePiece's own library, for a model that no list of merges says."""

    def __init__(self, path: pathlib.Path, model: SentencePieceModel, added: Mapping[str, int]):
        """Takes a model, what `read_model` made of it, and the ids of tokens beyond its pieces."""
        import sentencepiece  # slow to import, and rarely needed

        proto = path.read_bytes()
        going_on = proto + NO_DUMMY_PREFIX + (KEEP_SPACES if model.squeeze_spaces else b'')
        self._processors = [
            sentencepiece.SentencePieceProcessor(model_proto=variant)
            for variant in (proto, going_on)
        ]
        self.digest = hashlib.sha256(proto).hexdigest()
        self._squeezes, self._added = model.squeeze_spaces, added
        names = sorted(map(re.escape, added), key=len, reverse=True)
        self._split = re.compile(f'({"|".join(names)})') if names else None

    def encode(self, texts: Sequence[str], continued: bool) -> list[list[int]]:
        """The ids of texts, on all cores; see `Tokenizer.encode_batch`."""
        if continued and self._squeezes:
            texts = [re.sub(' {2,}', ' ', text) for text in texts]
        processor: Any = self._processors[continued]
        if self._split is None:
            return processor.encode(texts, num_threads=-1)
        encoded: list[list[int]] = []
        for text in texts:
            encoded.append([])
            for part in filter(None, self._split.split(text)):
                encoded[-1] += (
                    [self._added[part]] if part in self._added else processor.encode(part)
                )
        return encoded


def own_encoder(
    path: pathlib.Path, model: SentencePieceModel, backend: Tokenizer
) -> Encoder | None:
    """SentencePiece itself where `backend`, which `build` made of the model, says other tokens."""
    tokens = backend.get_added_tokens_decoder().items()
    added = {t.content: i for i, t in tokens if not t.special and i >= len(model.pieces)}
    tied = model.tied()
    if model.has_list and not tied and model.spells_itself:
        return None
    encoder = Encoder(path, model, added)
    runs = model.has_list and model.spells_itself
    runs = runs and all(len(set(t)) == 1 and len(t) <= LONGEST_RUN for t in tied)
    if not runs:
        return encoder
    # LLaMA's pieces of several spaces share a score. Runs of one letter can be tried out.
    longest = max(map(len, tied))
    letters = {text[0].replace(SPACE, ' ') for text in tied}
    trial = [letter * length for letter in letters for length in range(2, 4 * longest)]
    listed = [e.ids for e in backend.encode_batch(trial, add_special_tokens=False)]
    return None if listed == encoder.encode(trial, False) else encoder


def build(model: SentencePieceModel) -> Tokenizer:
    """The `tokenizers` object with a model's vocabulary, which says what SentencePiece says.

    Where no list of merges does (`listed`), it decodes alike, and `Encoder` encodes.

    Args:
        model: What `read_model` returned.
    Returns:
        A tokenizer that adds no BOS by itself; control pieces are its special tokens.
    """
    vocab = {piece.text: index for index, piece in enumerate(model.pieces)}
    unknown = next((p.text for p in model.pieces if p.kind == UNKNOWN), None)
    fallback = any(p.kind == BYTE for p in model.pieces)
    tokenizer = Tokenizer(
        models.BPE(
            vocab=vocab,
            merges=list_merges(model.pieces) if model.has_list else [],
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
    special = [p.text for p in model.pieces if p.kind in (UNKNOWN, CONTROL)]
    tokenizer.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in special])
    tokenizer.add_tokens(
        [AddedToken(p.text, normalized=False) for p in model.pieces if p.kind == USER_DEFINED]
    )
    return tokenizer


def list_merges(pieces: Sequence[ScoredPiece]) -> list[tuple[str, str]]:
    """SentencePiece merges the neighbours whose union has the best score; as an ordered list."""
    vocab = {piece.text: index for index, piece in enumerate(pieces)}
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
