"""Text to ids and back, the same on every version of a published directory's tokenizer."""

import array
import dataclasses
import functools
import hashlib
import pathlib
import re
import shutil
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer as Backend

from belle_jax.data import dummy_space, sentencepiece_model, tokenizer_directory
from belle_jax.data.tokenizer_bounds import explained
from belle_jax.data.tokenizer_directory import FILES
from belle_jax.files import whole_directory

BROKEN = '\ufffd'  # stands for what is not UTF-8
ESCAPED = re.compile('[\udc80-\udcff]')


class Piece(NamedTuple):
    """A stretch of a text that is tokenised on its own."""

    content: str | int  # text, or the id of a special token
    trained: bool = False
    continued: bool = False  # goes on where text ended: no dummy space in front


@dataclasses.dataclass(frozen=True, eq=False)
class Tokenizer:
    """Text to ids and back. Special tokens in the text are text: nobody can type one.

    `continuing` is the same tokenizer without the space that LLaMA's puts before a text: for text
    that goes on where other text ended.
    """

    directory: pathlib.Path
    backend: Backend
    continuing: Backend
    bos_id: int | None
    eos_id: int
    pad_id: int | None
    adds_bos: bool  # whether the tokenizer itself begins a text with BOS
    dummy: dummy_space.DummySpace  # where that space stands in a longer text
    chat_template: str | None
    special: dict[str, int]  # the tokens that no text can contain
    names: dict[str, str]  # the special tokens as a chat template calls them: 'eos_token': '</s>'
    encoder: sentencepiece_model.Encoder | None = None  # where `backend` cannot encode alike

    def __len__(self) -> int:
        """One more than the largest id: the rows that an embedding needs."""
        return max(self.backend.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, text: str, *, bos: bool = False, continued: bool = False) -> list[int]:
        """The ids of a text.

        Args:
            text: Any text; what looks like a special token in it is spelled out.
            bos: Whether to begin with BOS if this tokenizer does so.
            continued: Whether the text goes on where other text ended.
        Returns:
            Ids, without EOS.
        """
        ids = next(self.encode_batch([text], continued=continued))
        return [self.bos_id, *ids] if bos and self.adds_bos and self.bos_id is not None else ids

    def encode_batch(self, texts: Sequence[str], *, continued: bool = False) -> Iterator[list[int]]:
        """`encode` of many texts on all cores, without BOS; done when this returns."""
        if self.encoder:
            return iter(self.encoder.encode(texts, continued or not self.dummy.anywhere))
        backend = self.continuing if continued else self.backend
        # The fast one keeps no offsets into the text, which nobody asks for here.
        with explained(self.directory):
            encodings = backend.encode_batch_fast(list(texts), add_special_tokens=False)
        return (encoding.ids for encoding in encodings)  # a list of them all would be large

    def assemble(
        self, examples: Sequence[Sequence[Piece]]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Tokenises the pieces of many examples at once, on all cores.

        Returns:
            All ids one after the other, int32; whether each is trained on, bool; the number of ids
            of each example, int64.
        """
        flat = [piece for pieces in examples for piece in pieces]
        # One call where both ways are the same: the cores wait for each other once.
        same = self.continuing is self.backend and not self.encoder
        texts: tuple[list[str], list[str]] = ([], [])
        for piece in flat:
            if isinstance(piece.content, str):
                texts[piece.continued and not same].append(piece.content)
        encoded = [self.encode_batch(texts[way], continued=bool(way)) for way in (0, 1)]
        # A typed array is many times smaller than lists of numbers, and no work for Python's
        # collector.
        tokens = array.array('I')
        sizes = []
        for piece in flat:
            if isinstance(piece.content, str):
                ids = next(encoded[piece.continued and not same])
            else:
                ids = [piece.content]
            tokens.fromlist(ids)
            sizes.append(len(ids))
        trained = np.repeat(np.fromiter((p.trained for p in flat), bool, len(flat)), sizes)
        ends = np.cumsum([0, *map(len, examples)])
        bounds = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])[ends]
        return np.frombuffer(tokens, np.uint32).astype(np.int32), trained, np.diff(bounds)

    def decode(self, ids: Sequence[int], *, skip_special: bool = True) -> str:
        """The text of ids; bytes that are not UTF-8 become U+FFFD."""
        if self._bytes and not self._bytes.keys().isdisjoint(ids):
            return self._decode_bytes(ids, skip_special)
        return self.backend.decode(list(ids), skip_special_tokens=skip_special)

    def _decode_bytes(self, ids: Sequence[int], skip_special: bool) -> str:
        """`decode` of byte tokens as SentencePiece has it: a broken byte spoils no others.

        `tokenizers` gives up all byte tokens that follow each other for one that does not belong
        there: whole characters, too.
        """
        skipped = self._special_ids if skip_special else ()
        spelled: list[str] = []
        run = bytearray()
        for index in (*ids, None):  # None ends the last run of bytes
            if index in self._bytes:
                run.append(self._bytes[index])
            elif index not in skipped:
                if run:
                    # Each byte that is not UTF-8 comes as half a surrogate pair.
                    text = run.decode(errors='surrogateescape')
                    spelled.append(ESCAPED.sub(BROKEN, text))
                    run.clear()
                if spelling := index is not None and self.backend.id_to_token(index):
                    spelled.append(spelling)
        decoder: Any = self.backend.decoder
        return decoder.decode(spelled)

    @functools.cached_property
    def _special_ids(self) -> frozenset[int]:
        return frozenset(self.special.values())

    @functools.cached_property
    def _bytes(self) -> dict[int, int]:
        """The byte that a token stands for, where the vocabulary has such tokens."""
        if 'ByteFallback' not in repr(self.backend.decoder):
            return {}
        ids = ((self.backend.token_to_id(f'<0x{byte:02X}>'), byte) for byte in range(256))
        return {index: byte for index, byte in ids if index is not None}

    def token(self, index: int) -> str:
        """How an id is written, such as '</s>'."""
        added = self.backend.get_added_tokens_decoder().get(index)
        # An added token may stand in the vocabulary as a text's normalisation would leave it.
        return added.content if added else self.backend.id_to_token(index) or ''

    def fingerprint(self) -> str:
        """A hash of everything that decides which ids a text becomes."""
        state = (self.backend.to_str(), self.bos_id, self.eos_id, self.adds_bos)
        state += (self.encoder.digest,) if self.encoder else ()
        return hashlib.sha256(repr(state).encode()).hexdigest()

    def save(self, directory: pathlib.Path) -> None:
        """Copies the source's tokenizer files, unchanged; all of them appear at once.

        vocab.json with merges.txt does not say how words are split, and what does may be a
        config.json that is not copied: beside them tokenizer.json is written.
        """
        with whole_directory(directory) as partial:
            for name in FILES:
                if (self.directory / name).is_file():
                    shutil.copyfile(self.directory / name, partial / name)
            if not any((partial / name).is_file() for name in FILES[:2]):
                self.backend.save(str(partial / 'tokenizer.json'))


def load(path: str | pathlib.Path) -> Tokenizer:
    """Loads a tokenizer; runs no code from the directory.

    Args:
        path: A Hugging Face directory, a run directory, or a hub name such as
            'BelleGroup/BELLE-7B-2M'.
    Returns:
        The tokenizer.
    Raises:
        ValueError: no tokenizer is there, or its files contradict each other; they are named.
    """
    directory = tokenizer_directory.find(path)
    try:
        with explained(directory):
            return _load(directory)
    except ValueError as error:
        if str(directory) in str(error):
            raise
        raise ValueError(f'{directory}: {error}') from error


def _load(directory: pathlib.Path) -> Tokenizer:
    settings = tokenizer_directory.read_settings(directory)
    backend = tokenizer_directory.read_backend(directory, settings)
    added = backend.get_added_tokens_decoder().items()
    special = {token.content: index for index, token in added if token.special}
    bos_id, eos_id, pad_id = (
        tokenizer_directory.special_id(backend, settings, kind) for kind in ('bos', 'eos', 'pad')
    )
    if eos_id is None:
        raise ValueError(
            f'{directory} names no end-of-sequence token, and every answer ends with one: set '
            'eos_token in its tokenizer_config.json.'
        )
    adds_bos = tokenizer_directory.adds_bos(directory, settings, backend, bos_id)
    encoder = tokenizer_directory.read_encoder(directory, backend)
    dummy = tokenizer_directory.read_dummy_space(directory, settings, backend)
    continuing = dummy_space.without_dummy_space(backend)
    if not dummy.anywhere:
        backend = continuing = dummy_space.without_dummy_space(backend, decoding=True)
    backend.encode_special_tokens = continuing.encode_special_tokens = True
    ids = {'bos_token': bos_id, 'eos_token': eos_id, 'pad_token': pad_id}
    made = Tokenizer(
        directory=directory,
        backend=backend,
        continuing=continuing,
        bos_id=bos_id,
        eos_id=eos_id,
        pad_id=pad_id,
        adds_bos=adds_bos,
        dummy=dummy,
        chat_template=tokenizer_directory.read_chat_template(directory, settings),
        special=special,
        names={},
        encoder=encoder,
    )
    named = {name: made.token(index) for name, index in ids.items() if index is not None}
    said = {k: v for k, v in settings.items() if k.endswith('_token') and isinstance(v, str)}
    return dataclasses.replace(made, names=said | named)
