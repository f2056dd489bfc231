"""The files of a tokenizer that say its vocabulary: what the two kinds of them share.

A kind says how a piece is spelled and ranked, reads or learns other pieces, and writes its own
file. Both have a `tokenizer.json`, whose vocabulary and merges are changed here and nothing else.
"""

import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from tokenizers import models

from belle_jax.data.tokenizer import Tokenizer
from belle_jax.files import write_text
from belle_jax.json_files import read_json

Pair = tuple[str, str]


class Addition(NamedTuple):
    """Pieces that a vocabulary lacks, and what joins them where that has an order of its own."""

    pieces: list[str]
    merges: Sequence[Pair] = ()


NOTHING = Addition([])


class TrainingPlan(NamedTuple):
    """How pieces are learnt from texts."""

    size: int = 50_000  # of the vocabulary that is learnt; byte-level: of what is new in it
    kind: str = 'bpe'  # or unigram; SentencePiece's alone
    coverage: float = 0.9995  # share of the characters that become pieces; SentencePiece's alone


class VocabularyFiles:
    """The vocabulary of a tokenizer.

    Attributes:
        tokenizer: As it is loaded from these files.
        state: What `tokenizer.json` holds, or would hold.
    """

    kind: ClassVar[str]

    def __init__(self, tokenizer: Tokenizer, made: str) -> None:
        """Takes a tokenizer, and a `tokenizer.json` for a directory that has none."""
        if not isinstance(tokenizer.backend.model, models.BPE):
            raise ValueError(
                f'{tokenizer.directory}: its tokenizer.json is not a BPE, and only BPE is changed.'
            )
        self.tokenizer = tokenizer
        file = tokenizer.directory / 'tokenizer.json'
        self.state: dict[str, Any] = read_json(file) if file.is_file() else json.loads(made)
        added = sorted(tokenizer.backend.get_added_tokens_decoder().items())
        self.ids: dict[str, int] = self.state['model']['vocab'] | {t.content: i for i, t in added}

    def spelled(self, pieces: Sequence[str]) -> list[list[int]]:
        """The ids that the tokenizer gives what pieces stand for.

        Where those of one of its own are not its id, no text becomes that piece.
        """
        raise NotImplementedError

    def shown(self, piece: str) -> str:
        """What a person reads of a piece."""
        return piece

    def is_ascii(self, piece: str) -> bool:
        """Whether a piece stands for ASCII alone. Any other is in no line of ASCII."""
        raise NotImplementedError

    def rank(self, left: str, right: str) -> float:
        """When two neighbours are joined, the lowest first; infinity: they are not."""
        raise NotImplementedError

    def indispensable(self) -> set[int]:
        """Ids without which some text could not be written, or a special token would be missing."""
        raise NotImplementedError

    def read_other(self, path: Path, keep_ascii: bool) -> Addition:
        """What a second tokenizer has more; with `keep_ascii` nothing that touches ASCII."""
        raise NotImplementedError

    def train(self, texts: Iterable[str], plan: TrainingPlan, keep_ascii: bool) -> Addition:
        """What is learnt from texts."""
        raise NotImplementedError

    def write(
        self, target: Path, kept: Sequence[int], addition: Addition = NOTHING
    ) -> Sequence[str]:
        """Writes the files with some of the pieces, in this order, and others behind them.

        Returns:
            Sentences for the report.
        """
        raise NotImplementedError

    def needed(self, used: Iterable[int]) -> list[int]:
        """Ids that must stay so that all texts that became `used` become the same pieces.

        A piece is built inside its own letters, whatever stands around it: so what it is built from
        is enough, and what is left out was never joined in those texts.
        """
        pieces = {index: piece for piece, index in self.ids.items()}
        needed = self.indispensable()
        for index in {*used} - needed:
            needed.add(index)
            needed.update(self.ids[p] for p in self.built(pieces[index]) if p in self.ids)
        return sorted(needed)

    def built(self, piece: str) -> set[str]:
        """All that BPE passes through on its way from single letters to a piece.

        Where bc is joined first, and a with it next, abcd is built of a, b, c, d, bc, abc and abcd.
        """
        parts = list(piece)
        made = set(parts)
        while len(parts) > 1:
            ranks = [self.rank(left, right) for left, right in itertools.pairwise(parts)]
            best = ranks.index(min(ranks))  # the leftmost of equals
            if ranks[best] == math.inf:
                break
            parts[best : best + 2] = [parts[best] + parts[best + 1]]
            made.add(parts[best])
        return made

    def write_json(self, target: Path, ids: Mapping[str, int], merges: Iterable[Pair]) -> None:
        """Writes `tokenizer.json` with another vocabulary; added tokens get their ids from it."""
        model = self.state['model']
        # Programs of before 2024 read pairs as texts alone.
        as_text = any(isinstance(merge, str) for merge in model['merges'])
        listed = [' '.join(pair) if as_text else pair for pair in merges]
        added = self.state.get('added_tokens', [])
        state = self.state | {
            'added_tokens': [t | {'id': ids.get(t['content'], t['id'])} for t in added],
            'post_processor': _pointed(self.state.get('post_processor'), ids),
            'model': model | {'vocab': dict(ids), 'merges': listed},
        }
        write_text(target / 'tokenizer.json', json.dumps(state, ensure_ascii=False))


def pairs(merges: Iterable[Any]) -> list[Pair]:
    """The merges of a `tokenizer.json`, which old programs write as texts."""
    split = (merge.split(' ') if isinstance(merge, str) else merge for merge in merges)
    return [(left, right) for left, right in split]


def _pointed(node: Any, ids: Mapping[str, int]) -> Any:
    """A post-processor whose special tokens have the ids of a vocabulary."""
    if isinstance(node, list):
        return [_pointed(child, ids) for child in node]
    if not isinstance(node, dict):
        return node
    if 'ids' in node:
        return node | {'ids': [ids[token] for token in node['tokens']]}
    return {name: _pointed(child, ids) for name, child in node.items()}
