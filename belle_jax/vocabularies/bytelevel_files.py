"""Byte-level BPE as BLOOM's: a list of merges over letters that stand for bytes."""

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, trainers

from belle_jax.data import tokenizer_bounds
from belle_jax.data.tiktoken_model import byte_letters
from belle_jax.data.tokenizer import Tokenizer
from belle_jax.data.tokenizer_bounds import explained
from belle_jax.vocabularies.vocabulary_files import (
    NOTHING,
    Addition,
    Pair,
    TrainingPlan,
    VocabularyFiles,
    pairs,
)

STALE = ('vocab.json', 'merges.txt', 'tokenizer.model')
"""Files that say a vocabulary in other words, and would say the old one."""
LONGEST = 8  # old pieces in one that is learnt
FIRST_LETTER = 0x10000  # code points from here on stand for ids while pieces are learnt
BATCH = 100  # texts that are tokenised together


def is_bytelevel(backend: Backend) -> bool:
    """Whether a tokenizer is a BPE of bytes."""
    return isinstance(backend.model, models.BPE) and 'ByteLevel' in repr(backend.pre_tokenizer)


class ByteLevelFiles(VocabularyFiles):
    """A tokenizer.json whose merges join bytes."""

    kind = 'byte-level BPE'

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer, tokenizer.backend.to_str())
        self._model: Any = tokenizer.backend.model
        self._bytes = {letter: byte for byte, letter in enumerate(byte_letters())}
        self._ranks = {p: rank for rank, p in enumerate(pairs(self.state['model']['merges']))}

    def spelled(self, pieces: Sequence[str]) -> list[list[int]]:
        return [self._spelled(piece) for piece in pieces]

    def _spelled(self, piece: str) -> list[int]:
        try:
            text = bytes(self._bytes[letter] for letter in piece).decode()
        except (KeyError, UnicodeDecodeError):
            # A part of a character is no text; the model itself takes its letters.
            return [token.id for token in self._model.tokenize(piece)]
        return self.tokenizer.encode(text, continued=True)

    def shown(self, piece: str) -> str:
        if any(letter not in self._bytes for letter in piece):
            return piece
        return bytes(self._bytes[letter] for letter in piece).decode(errors='replace')

    def is_ascii(self, piece: str) -> bool:
        return all(self._bytes.get(letter, 128) < 128 for letter in piece)

    def rank(self, left: str, right: str) -> float:
        return self._ranks.get((left, right), math.inf)

    def indispensable(self) -> set[int]:
        letters = {*self._bytes, self.state['model'].get('unk_token')} & self.ids.keys()
        added = self.tokenizer.backend.get_added_tokens_decoder()
        return {*added, *(self.ids[letter] for letter in letters)}

    def read_other(self, path: Path, keep_ascii: bool) -> Addition:
        file = path / 'tokenizer.json' if path.is_dir() else path
        other = None
        if file.suffix == '.json':
            tokenizer_bounds.check(file)
            with explained(file):
                other = Backend.from_file(str(file))
        if not other or not is_bytelevel(other):
            raise ValueError(
                f'{file} is not the tokenizer.json of a byte-level BPE: the model has such a '
                'tokenizer, so --add must be another.'
            )
        state = json.loads(other.to_str())
        special = {token['content'] for token in state['added_tokens']}
        pieces = sorted(state['model']['vocab'].items(), key=lambda item: item[1])
        new = (piece for piece, _ in pieces if piece not in special)
        return self._addition(new, pairs(state['model']['merges']), keep_ascii)

    def train(self, texts: Iterable[str], plan: TrainingPlan, keep_ascii: bool) -> Addition:
        """BPE goes on where the old one ended: what is joined are the old pieces of a word.

        So each new piece can be reached, which merges learnt from bytes could not promise: the old
        ones come first and would take their parts away. `tokenizers` learns from letters, so an id
        is written as one.
        """
        old = len(self.tokenizer)
        learner = Backend(models.BPE())
        learner.pre_tokenizer = pre_tokenizers.Split('\n', 'removed')  # pyright: ignore[reportAttributeAccessIssue]
        learner.train_from_iterator(
            self._words(texts, keep_ascii),
            trainers.BpeTrainer(
                vocab_size=old + plan.size,
                initial_alphabet=[chr(FIRST_LETTER + index) for index in range(old)],
                min_frequency=2,
                max_token_length=LONGEST,
                show_progress=False,
            ),
        )
        pieces = {chr(FIRST_LETTER + index): piece for piece, index in self.ids.items()}
        learnt: list[Pair] = [
            (''.join(map(pieces.__getitem__, left)), ''.join(map(pieces.__getitem__, right)))
            for left, right in json.loads(learner.to_str())['model']['merges']
        ]
        return self._addition(map(''.join, learnt), learnt, keep_ascii)

    def write(
        self, target: Path, kept: Sequence[int], addition: Addition = NOTHING
    ) -> Sequence[str]:
        places = {old: new for new, old in enumerate(kept)}
        ids = {piece: places[index] for piece, index in self.ids.items() if index in places}
        ids |= {piece: len(kept) + i for i, piece in enumerate(addition.pieces)}
        merges = [m for m in (*self._ranks, *addition.merges) if {*m, ''.join(m)} <= ids.keys()]
        self.write_json(target, ids, merges)
        gone = [name for name in STALE if (target / name).is_file()]
        for name in gone:
            (target / name).unlink()
        return [f'{name} left out: tokenizer.json says it all.' for name in gone]

    def _addition(
        self, pieces: Iterable[str], merges: Iterable[Pair], keep_ascii: bool
    ) -> Addition:
        """What of a list is new. A merge that makes an old piece in a new way is new as well."""
        new = [
            piece
            for piece in dict.fromkeys(pieces)
            if piece not in self.ids and not (keep_ascii and self.is_ascii(piece))
        ]
        known = {*self.ids, *new}
        joined = [
            pair
            for pair in dict.fromkeys(merges)
            if pair not in self._ranks
            and {*pair, ''.join(pair)} <= known
            and not (keep_ascii and self.is_ascii(''.join(pair)))
        ]
        return Addition(new, joined)

    def _words(self, texts: Iterable[str], keep_ascii: bool) -> Iterator[str]:
        """The words of texts, one a line, as letters for the ids of their pieces.

        With `keep_ascii`, pieces of ASCII part words: what would be joined with one is left out.
        """
        aside = {i for piece, i in self.ids.items() if keep_ascii and self.is_ascii(piece)}
        texts = iter(texts)
        while batch := list(itertools.islice(texts, BATCH)):
            for encoding in self.tokenizer.backend.encode_batch(batch, add_special_tokens=False):
                placed = zip(encoding.word_ids, encoding.ids, strict=True)
                for _, word in itertools.groupby(placed, key=lambda pair: pair[0]):
                    yield ''.join('\n' if i in aside else chr(FIRST_LETTER + i) for _, i in word)
