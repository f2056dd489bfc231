"""The report of an evaluation: scores.json, scores.md, and a page that needs no network."""

from collections.abc import Mapping
from typing import Any

from belle_jax.files import write_text
from belle_jax.json_files import write_json
from belle_jax.judging import figures, report_page, results, statistics
from belle_jax.judging.evaluation import Evaluation
from belle_jax.judging.results import Results

JSON, MARKDOWN, PAGE = 'scores.json', 'scores.md', 'report.html'
CONDITIONS = ('judge', 'prompts', 'judgings')  # under which alone two models' scores compare


def write(
    evaluation: Evaluation,
    others: Mapping[str, str] | None = None,
    name: str = '',
    person: str = '',
) -> str:
    """Writes the three files.

    Args:
        evaluation: Whose directory gets them.
        others: Directories of other evaluations of the same questions, by how they are named.
        name: Of this one beside them; '': its directory's.
        person: File of a person's scores, or ''.
    Returns:
        What it came to, in a few lines.
    Raises:
        ValueError: one of the evaluations is not whole, asks other questions, or has another's
            name.
    """
    found = {name or evaluation.path.resolve().name: results.load(evaluation, person)}
    for label, directory in (others or {}).items():
        other = Evaluation(directory)
        if other.settings['asked'] != evaluation.settings['asked']:
            raise ValueError(
                f'{directory} asks other questions than {evaluation.path}: only evaluations with '
                'the same --questions compare.'
            )
        if label in found:
            raise ValueError(
                f'two evaluations are named {label!r}: give this one another --name, or the other '
                f'one with --others=NAME={directory}.'
            )
        found[label] = results.load(other)
    made = {label: figures.scores(one) for label, one in found.items()}
    (label, ours), *rest = found.items()
    compared = {other: _compared(ours, theirs) for other, theirs in rest}
    write_json(evaluation.path / JSON, made[label] | ({'compared': compared} if compared else {}))
    lines = [figures.covered(made[label]), *report_page.cautions(compared)]
    table = figures.markdown(made)
    write_text(evaluation.path / MARKDOWN, '\n\n'.join([table.rstrip(), *lines]) + '\n')
    write_text(evaluation.path / PAGE, report_page.render(found, made, compared))
    return '\n'.join([table, *lines, f'Report: {evaluation.path / PAGE}'])


def _compared(ours: Results, theirs: Results) -> dict[str, Any]:
    """The paired comparison, as JSON values, and the conditions in which the two differ."""
    result = statistics.compare(ours.values_q, theirs.values_q, ours.kinds)
    settings = [one.evaluation.settings for one in (ours, theirs)]
    differ = [name for name in CONDITIONS if settings[0].get(name) != settings[1].get(name)]
    return figures.plain(
        result._asdict() | {'difference': result.difference._asdict(), 'conditions': differ}
    )
