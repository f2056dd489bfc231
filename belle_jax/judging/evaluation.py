"""The directory of an evaluation: who was asked what, and what each stage came to.

    settings.json                   who answered, who judged, with which files
    questions.jsonl                 what was asked
    answers.jsonl                   the first stage: `answering`
    verdicts.jsonl, pairs.jsonl     the second: `scoring`
    contamination.json              what training data have of the questions
    report.html, scores.json, .md   the third: `report`

Journals of servers lie beside them. It holds everything that a report needs, and can be moved.
"""

import hashlib
import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from belle_jax import __version__
from belle_jax.api import Client, Journal, session
from belle_jax.files import WholeText
from belle_jax.json_files import read_json, write_json
from belle_jax.judging import answering, questions, scoring
from belle_jax.judging.answering import Asked, Response
from belle_jax.judging.questions import Question
from belle_jax.judging.rubrics import PAIR, Rubrics
from belle_jax.judging.scoring import Case

SETTINGS, QUESTIONS = 'settings.json', 'questions.jsonl'
ANSWERS, VERDICTS, PAIRS = 'answers.jsonl', 'verdicts.jsonl', 'pairs.jsonl'
CONTAMINATION = 'contamination.json'
BEGIN = 'begin with the stage of answers: evaluate answer, or evaluate run'


class Evaluation:
    """One model's answers to one set of questions, with what judges made of them.

    Attributes:
        path: The directory.
        questions: What is asked.
        settings: What settings.json holds.
    """

    def __init__(self, path: str | Path) -> None:
        """Opens one that was begun.

        Raises:
            ValueError: there is none.
        """
        self.path = Path(path)
        self.settings = read_json(self.path / SETTINGS, BEGIN)
        self.questions = questions.read(self.path / QUESTIONS)

    @classmethod
    def begin(cls, path: str | Path, asked: Sequence[Question], **settings: Any) -> 'Evaluation':
        """Makes the directory, or opens it if it was begun with these questions and settings.

        Raises:
            ValueError: it belongs to others.
            OSError: it cannot be written.
        """
        directory = Path(path)
        settings['asked'] = _hash([list(question) for question in asked])
        if (directory / SETTINGS).exists():
            before = read_json(directory / SETTINGS, BEGIN)
            other = [name for name, value in settings.items() if before.get(name) != value]
            if other:
                names = {'asked': 'questions', 'answered_by': 'ways to answer'}
                raise ValueError(
                    f'{directory} is an evaluation with other '
                    f'{" and ".join(names.get(name, name) for name in other)}: give another '
                    '--output, or delete it to begin anew.'
                )
        else:
            directory.mkdir(parents=True, exist_ok=True)
            with WholeText(directory / QUESTIONS) as file:
                for question in asked:
                    row = (question.text, question.reference, question.kind)
                    row = dict(zip(questions.FIELDS, row))
                    file.write(json.dumps(row, ensure_ascii=False) + '\n')
            settings |= {'belle_jax': __version__, 'made': date.today().isoformat()}
            write_json(directory / SETTINGS, settings)
        return cls(directory)

    def note(self, **settings: Any) -> None:
        """Adds to settings.json."""
        self.settings |= settings
        write_json(self.path / SETTINGS, self.settings)

    @property
    def output(self) -> Path:
        """The file of answers."""
        return self.path / ANSWERS

    def answers(self) -> list[Response]:
        """The answers.

        Raises:
            ValueError: there are none yet, or not to all questions.
        """
        if not self.output.is_file():
            raise ValueError(f'{self.output} is not there: {BEGIN}.')
        return answering.read(self.output, self.questions)

    def ask_server(self, asked: Asked, client: Client) -> str:
        """Has a server's model answer; a sentence says why answers are missing."""
        with self._journal('answers', {'model': asked.model}) as journal:
            missing = answering.from_server(self.questions, self.output, asked, client, journal)
            return _told(journal, missing)

    def judge(self, rubrics: Rubrics, judgings: int, asked: Asked, client: Client) -> str:
        """Has a judge score the answers; a sentence says why verdicts are missing.

        Raises:
            ValueError: a class has no prompt, the judge was another one, or nothing that it says
                can be read.
        """
        cases = scoring.singles(self.questions, self.answers(), rubrics, judgings)
        self.note(judge=asked.model, judgings=judgings, prompts=rubrics.path.name)
        with self._judged_by('judge', asked, rubrics) as journal:
            return self._judged(VERDICTS, cases, asked, client, journal)

    def compare(self, against: str, rubrics: Rubrics, asked: Asked, client: Client) -> str:
        """Has a judge compare the answers with others, in both orders; as `judge`.

        Args:
            against: Another evaluation of these questions, or a file of answers.
            rubrics: With a prompt for pairs.
            asked: How the judge is asked.
            client: Asks it.
        """
        file = Path(against) / ANSWERS if Path(against).is_dir() else Path(against)
        others = answering.read(file, self.questions)
        cases = scoring.pairs(self.questions, self.answers(), others, rubrics)
        self.note(against=against, pair_judge=asked.model)
        with self._judged_by('pairs', asked, rubrics, against=against) as journal:
            return self._judged(PAIRS, cases, asked, client, journal)

    def _judged(
        self, name: str, cases: Sequence[Case], asked: Asked, client: Client, journal: Journal
    ) -> str:
        missing = scoring.judge(cases, asked, client, journal, self.path / name)
        found = scoring.read(self.path / name)
        read = sum(verdict.value is not None for verdict in found)
        again = sum(verdict.again for verdict in found)
        unread = sum(verdict.value is None and not verdict.error for verdict in found)
        print(
            f'{read:,} of {len(cases):,} verdicts are read ({again:,} were asked for once more, '
            f'{unread:,} stay unparsed): {self.path / name}'
        )
        return _told(journal, missing)

    def _judged_by(self, name: str, asked: Asked, rubrics: Rubrics, **more: str) -> Journal:
        kinds = [PAIR] if more else sorted({question.kind for question in self.questions})
        prompts = _hash([rubrics.prompts[kind] for kind in kinds])
        settings = {'judge': asked.model, 'prompts': prompts, **more}
        return self._journal(name, settings)

    def _journal(self, name: str, settings: dict[str, Any]) -> Journal:
        """A journal whose requests differ by their bodies alone, beside what is said here."""
        path = self.path / f'{name}.journal.sqlite'
        return Journal(path, settings | {'questions': self.settings['asked']})


def _told(journal: Journal, missing: str) -> str:
    """Says what a journal has and took; returns what is missing."""
    print('\n'.join(session.account(journal)))
    return missing


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:16]
