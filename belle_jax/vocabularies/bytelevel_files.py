"""Byte-level BPE as BLOOM's: a list of merges over letters that stand for bytes."""

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, trainers

from belle_jax.data import tokenizer_bounds
from belle_jax.data.tiktoken_model import byte_letters
from belle_jax.data.tokenizer import Tokenizer
from belle_jax.json_files import read_json
from belle_jax.vocabularies.vocabulary_files import Addition, Pair, TrainingPlan, VocabularyFiles

STALE = ('vocab.json', 'merges.txt', 'tokenizer.model')
"""What says a vocabulary in other words, and would say the old one."""
LONGEST = 8  # old pieces in a trained one
FIRST_LETTER = 0x10000  # code points from here on stand for ids while pieces are trained
BATCH = 1000  # texts that are tokenised together


class ByteLevelFiles(VocabularyFiles):
    """A tokenizer.json whose merges join bytes."""

    kind = 'byte-level BPE'

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer, tokenizer.backend.to_str())
        self._bytes = {letter: byte for byte, letter in enumerate(byte_letters())}
        self._ranks = {pair: float(rank) for rank, pair in enumerate(self.merges())}

    def spelled(self, piece: str) -> list[int]:
        # A piece may be a part of a character, so no text; the model itself takes its letters.
        return [token.id for token in self._model.tokenize(piece)]

    def is_reachable(self, piece: str, index: int) -> bool:
        try:
            text = bytes(self._bytes[letter] for letter in piece).decode()
        except (KeyError, UnicodeDecodeError):
            return self.spelled(piece) == [index]
        return self.tokenizer.encode(text, continued=True) == [index]

    def is_ascii(self, piece: str) -> bool:
        return all(self._bytes.get(letter, 128) < 128 for letter in piece)

    def rank(self, left: str, right: str) -> float:
        return self._ranks.get((left, right), math.inf)

    def indispensable(self) -> set[int]:
        vocab, added = self.vocabulary, self.tokenizer.backend.get_added_tokens_decoder()
        letters = {vocab[letter] for letter in self._bytes if letter in vocab}
        unknown = {vocab[u] for u in [self.state['model'].get('unk_token')] if u in vocab}
        return {*added, *letters, *unknown}

    def read_other(self, path: Path, keep_ascii: bool) -> Addition:
        file = path / 'tokenizer.json' if path.is_dir() else path
        wanted = 'the model has a byte-level BPE, so --add must be the tokenizer.json of another'
        if not file.is_file() or not file.open('rb').read(64).lstrip().startswith(b'{'):
            raise ValueError(f'{file} is not a tokenizer.json: {wanted}.')
        tokenizer_bounds.check(file)
        state = read_json(file)
        other: Any = state.get('model') or {}
        if 'ByteLevel' not in json.dumps(state.get('pre_tokenizer')) or 'merges' not in other:
            raise ValueError(f'{file} is not a byte-level BPE: {wanted}.')
        special = {token['content'] for token in state.get('added_tokens', [])}
        pairs = [tuple(m.split(' ')) if isinstance(m, str) else tuple(m) for m in other['merges']]
        return self._addition(
            (p for p in sorted(other['vocab'], key=other['vocab'].get) if p not in special),
            pairs,
            keep_ascii,
        )

    def train(self, texts: Iterable[str], plan: TrainingPlan, keep_ascii: bool) -> Addition:
        """BPE goes on where the old one ended: what is joined are the old pieces of a word.

        So each new piece can be reached, which merges learnt from bytes could not promise: the old
        ones come first and would take their parts away. `tokenizers` trains on letters, so that an
        id is written as one.
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
        pieces = {index: piece for piece, index in self.vocabulary.items()}

        def piece(letters: str) -> str:
            return ''.join(pieces[ord(letter) - FIRST_LETTER] for letter in letters)

        learnt = json.loads(learner.to_str())['model']['merges']
        pairs = [(piece(left), piece(right)) for left, right in learnt]
        return self._addition((left + right for left, right in pairs), pairs, keep_ascii)

    def write_extended(self, target: Path, addition: Addition) -> list[str]:
        first = len(self.tokenizer)
        new = {piece: first + i for i, piece in enumerate(addition.pieces)}
        self.write_json(target, self.vocabulary | new, [*self.merges(), *addition.merges])
        return _without_stale(target)

    def write_pruned(self, target: Path, new_ids: Mapping[int, int]) -> list[str]:
        vocab = {p: new_ids[i] for p, i in self.vocabulary.items() if i in new_ids}
        merges = [m for m in self.merges() if {*m, ''.join(m)} <= vocab.keys()]
        self.write_json(target, vocab, merges)
        return _without_stale(target)

    @property
    def _model(self) -> Any:
        return self.tokenizer.backend.model

    def _addition(
        self, pieces: Iterable[str], merges: Iterable[Pair], keep_ascii: bool
    ) -> Addition:
        """What of a list is new. A merge that makes an old piece in a new way is new as well."""
        old = self.vocabulary
        new = [p for p in dict.fromkeys(pieces) if p not in old]
        if keep_ascii:
            new = [p for p in new if not self.is_ascii(p)]
        known = {*old, *new}
        pairs = [
            pair
            for pair in dict.fromkeys(merges)
            if pair not in self._ranks
            and {*pair, ''.join(pair)} <= known
            and not (keep_ascii and self.is_ascii(''.join(pair)))
        ]
        return Addition(new, pairs)

    def _words(self, texts: Iterable[str], keep_ascii: bool) -> Iterator[str]:
        """The words of texts, one a line, as letters for the ids of their pieces.

        With `keep_ascii`, pieces of ASCII part words: what would be joined with one is left out.
        """
        aside = {i for p, i in self.vocabulary.items() if keep_ascii and self.is_ascii(p)}
        texts = iter(texts)
        while batch := list(itertools.islice(texts, BATCH)):
            for encoding in self.tokenizer.backend.encode_batch(batch, add_special_tokens=False):
                pairs = zip(encoding.word_ids, encoding.ids, strict=True)
                for _, word in itertools.groupby(pairs, key=lambda pair: pair[0]):
                    letters = ('\n' if i in aside else chr(FIRST_LETTER + i) for _, i in word)
                    yield ''.join(letters)


def _without_stale(target: Path) -> list[str]:
    gone = [name for name in STALE if (target / name).is_file()]
    for name in gone:
        (target / name).unlink()
    return [f'{" and ".join(gone)} left out: tokenizer.json says it all.'] if gone else []
