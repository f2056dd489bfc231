"""SentencePiece's BPE as LLaMA's: pieces with scores, and a list of merges that says the same."""

import math
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from tokenizers import processors

from belle_jax.data import sentencepiece_model, tokenizer
from belle_jax.data.sentencepiece_model import (
    BPE,
    CONTROL,
    NORMAL,
    SPACE,
    USER_DEFINED,
    Encoder,
    ScoredPiece,
)
from belle_jax.data.tokenizer import Tokenizer
from belle_jax.data.tokenizer_bounds import explained
from belle_jax.vocabularies.vocabulary_files import NOTHING, Addition, TrainingPlan, VocabularyFiles

LINE = 1000  # characters: the library leaves out lines of more than 4,192 bytes
LONG = 40  # pieces of a longer text that both files are tried on
SENTENCES = 5_000_000  # that are drawn from a corpus which has more


class SentencePieceFiles(VocabularyFiles):
    """A tokenizer.model, with a tokenizer.json where a list of merges says the same tokens."""

    kind = 'SentencePiece BPE'

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.file = tokenizer.directory / 'tokenizer.model'
        self.model = sentencepiece_model.read_model(self.file)
        if self.model.model_type != BPE:
            raise ValueError(
                f'{self.file} chooses pieces by their probability, not by merges: a score that '
                'leaves old tokens as they are has no meaning there. Only BPE is changed.'
            )
        super().__init__(tokenizer, self._made(tokenizer))
        self.pieces = [*self.model.pieces, *self._beyond()]
        for index, piece in enumerate(self.pieces):
            if (listed := tokenizer.backend.token_to_id(piece.text)) != index:
                raise ValueError(
                    f'{tokenizer.directory}: {piece.text!r} has the id {index} in tokenizer.model '
                    f'and {listed} in tokenizer.json: take the files that belong together.'
                )
        self._scores = {p.text: p.score for p in self.pieces if p.kind == NORMAL}

    def _made(self, tokenizer: Tokenizer) -> str:
        """The list that says this model, with BOS where the tokenizer begins with it."""
        backend = sentencepiece_model.build(self.model)
        if tokenizer.adds_bos and tokenizer.bos_id is not None:
            bos = tokenizer.token(tokenizer.bos_id)
            backend.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
                single=f'{bos} $A',
                pair=f'{bos} $A {bos}:1 $B:1',
                special_tokens=[(bos, tokenizer.bos_id)],
            )
        return backend.to_str()

    def _beyond(self) -> Iterator[ScoredPiece]:
        """Tokens that were added behind the pieces, as pieces, so that more can follow."""
        added = self.tokenizer.backend.get_added_tokens_decoder()
        for index in range(len(self.model.pieces), len(self.tokenizer)):
            if index not in added:
                raise ValueError(
                    f'{self.tokenizer.directory}: no file names the token with the id {index}: '
                    'complete tokenizer.model or added_tokens.json.'
                )
            kind = CONTROL if added[index].special else USER_DEFINED
            yield ScoredPiece(added[index].content, 0.0, kind)

    def spelled(self, pieces: Sequence[str]) -> list[list[int]]:
        texts = [piece.replace(SPACE, ' ') for piece in pieces]
        return list(self.tokenizer.encode_batch(texts, continued=True))

    def is_ascii(self, piece: str) -> bool:
        return piece.replace(SPACE, ' ').isascii()

    def rank(self, left: str, right: str) -> float:
        return -self._scores.get(left + right, -math.inf)

    def indispensable(self) -> set[int]:
        return {i for i, p in enumerate(self.pieces) if p.kind != NORMAL or p.text == SPACE}

    def read_other(self, path: Path, keep_ascii: bool) -> Addition:
        file = path / 'tokenizer.model' if path.is_dir() else path
        try:
            other = sentencepiece_model.read_model(file)
        except (ValueError, FileNotFoundError) as error:
            raise ValueError(
                f'{file} is not a SentencePiece model: the model has one, so --add must be another.'
            ) from error
        return self._addition(other.pieces, keep_ascii)

    def train(self, texts: Iterable[str], plan: TrainingPlan, keep_ascii: bool) -> Addition:
        import sentencepiece  # slow to import

        sentencepiece.set_random_generator_seed(0)  # of the lines that are drawn
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / 'trained'
            try:
                sentencepiece.SentencePieceTrainer.train(  # pyright: ignore[reportAttributeAccessIssue]
                    sentence_iterator=_lines(texts),
                    model_prefix=str(file),
                    vocab_size=plan.size,
                    model_type=plan.kind,
                    character_coverage=plan.coverage,
                    byte_fallback=True,
                    # As LLaMA's, behind which the pieces come to stand.
                    normalization_rule_name='identity',
                    remove_extra_whitespaces=False,
                    split_digits=True,
                    input_sentence_size=SENTENCES,
                    shuffle_input_sentence=True,
                    minloglevel=3,
                )
            except (RuntimeError, OSError) as error:
                reason = str(error).rpartition('] ')[2].partition(' Increase ')[0].rstrip('.')
                raise ValueError(
                    f'--size={plan.size}: SentencePiece cannot learn that vocabulary ({reason}): '
                    'give another size, or more text.'
                ) from error
            trained = sentencepiece_model.read_model(file.with_suffix('.model'))
        return self._addition(trained.pieces, keep_ascii)

    def _addition(self, pieces: Sequence[ScoredPiece], keep_ascii: bool) -> Addition:
        new = [p.text for p in pieces if p.kind == NORMAL and p.text not in self.ids]
        return Addition([text for text in new if not (keep_ascii and self.is_ascii(text))])

    def write(
        self, target: Path, kept: Sequence[int], addition: Addition = NOTHING
    ) -> Sequence[str]:
        """Writes tokenizer.model, and the list if SentencePiece itself splits all pieces like it.

        New pieces have scores of their own, each below all before it.
        """
        pieces = [self.pieces[index] for index in kept]
        score = np.float32(min(piece.score for piece in self.pieces))
        for text in addition.pieces:
            score = min(score - np.float32(1), np.nextafter(score, np.float32(-np.inf)))
            pieces.append(ScoredPiece(text, float(score), NORMAL))
        file, list_file = target / 'tokenizer.model', target / 'tokenizer.json'
        list_file.unlink(missing_ok=True)
        sentencepiece_model.write_model(self.file, file, pieces)
        model = sentencepiece_model.read_model(file)
        with explained(file):
            own = Encoder(file, model, {})
            needed = sentencepiece_model.own_encoder(file, model, sentencepiece_model.build(model))
        if needed:
            return [
                'tokenizer.json left out: pieces share scores, or are made of letters that are no '
                'pieces, or spaces are squeezed, which no list of merges can say.'
            ]
        ids = {piece.text: index for index, piece in enumerate(pieces)}
        self.write_json(target, ids, sentencepiece_model.list_merges(pieces))
        listed = tokenizer.load(target)
        texts = [p.text.replace(SPACE, ' ') for p in pieces if p.kind == NORMAL]
        texts += [''.join(texts[at : at + LONG]) for at in range(0, len(texts), LONG)]
        said = own.encode(texts, not listed.dummy.anywhere)
        for text, one, other in zip(texts, said, listed.encode_batch(texts), strict=True):
            if one != other:
                list_file.unlink()
                return [f'tokenizer.json left out: it splits {text[:40]!r} in another way.']
        return []


def _lines(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        for line in text.splitlines():
            yield from (line[at : at + LINE] for at in range(0, len(line), LINE))
