"""The report of an evaluation: scores.json, scores.md, and a page that needs no network."""

import base64
import hashlib
import importlib.resources
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from belle_jax.files import write_text
from belle_jax.json_files import write_json
from belle_jax.judging import results, statistics
from belle_jax.judging.evaluation import Evaluation
from belle_jax.judging.results import Results
from belle_jax.pages import page, scores

JSON, MARKDOWN, PAGE = 'scores.json', 'scores.md', 'report.html'
BINS = 10  # of the histogram of scores
SIZE = re.compile(r'([\d.,]+)\s*([kKmMbB]?)')
UNITS = {'': 1.0, 'k': 1e3, 'm': 1e6, 'b': 1e9}
NAN = float('nan')


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
        ValueError: one of the evaluations is not whole, or asks other questions.
    """
    found = {name or evaluation.path.name: results.load(evaluation, person)}
    for label, directory in (others or {}).items():
        other = Evaluation(directory)
        if other.settings['asked'] != evaluation.settings['asked']:
            raise ValueError(
                f'{directory} asks other questions than {evaluation.path}: only evaluations with '
                'the same --questions compare.'
            )
        found[label] = results.load(other)
    labels, all_results = list(found), list(found.values())
    figures = [results.scores(one) for one in all_results]
    compared = {label: _compared(all_results[0], other) for label, other in _rest(found)}
    write_json(evaluation.path / JSON, figures[0] | ({'compared': compared} if compared else {}))
    table = results.markdown(labels, figures)
    write_text(evaluation.path / MARKDOWN, table)
    write_text(evaluation.path / PAGE, _page(labels, all_results, figures, compared))
    covered = figures[0]['coverage']
    return (
        f'{table}\n{covered["read"]:,} of {covered["judgings"]:,} judgings have a score, '
        f'{covered["unparsed"]:,} could not be read.\nReport: {evaluation.path / PAGE}'
    )


def _rest(found: Mapping[str, Results]) -> list[tuple[str, Results]]:
    return list(found.items())[1:]


def _compared(ours: Results, theirs: Results) -> dict[str, Any]:
    """The paired comparison, as JSON values."""
    result = statistics.compare(ours.values_q, theirs.values_q, ours.kinds)
    return results.plain(result._asdict() | {'difference': result.difference._asdict()})


# --- the page -------------------------------------------------------------------------------------


def _page(
    labels: list[str],
    found: list[Results],
    figures: list[dict[str, Any]],
    compared: Mapping[str, Any],
) -> str:
    settings = found[0].evaluation.settings
    kinds = list(figures[0]['classes'])
    rows = [(kind, [_bounds(one['classes'].get(kind)) for one in figures]) for kind in kinds]
    script = (importlib.resources.files('belle_jax.pages') / 'evaluation.js').read_text('utf-8')
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    data = json.dumps(_questions(found[0]), ensure_ascii=False)
    return page.render(
        'evaluation.jinja',
        title=f'Evaluation: {settings["model"]}',
        digest=digest,
        script=Markup(script),
        # In a script's text nothing is escaped, so no tag may begin in it.
        data=Markup(data.replace('<', '\\u003c')),
        tiles=_tiles(figures[0]),
        labels=labels,
        rows=[
            (kind, figures[0]['classes'][kind]['questions'], [_said(v) for v in values])
            for kind, values in [*rows]
        ],
        averages=[
            (title, [_said(_bounds(one[key])) for one in figures])
            for title, key in (
                ('average', 'average'),
                ('without math and code', 'average_without_math_and_code'),
            )
        ],
        bars=scores.interval_bars(labels, rows),
        radar=scores.radar(labels, rows),
        histogram=page.histogram(_histogram(found[0].values_q), 'mean score of a question'),
        scaling=_scaling(labels, figures),
        compared=compared,
        trust=_trust(figures[0]),
        contamination=figures[0].get('contamination'),
        settings=[
            (key, json.dumps(v) if isinstance(v, dict) else v) for key, v in settings.items()
        ],
        kinds=kinds,
    )


def _bounds(values: Mapping[str, Any] | None) -> scores.Bounds:
    if not values:
        return NAN, NAN, NAN
    value, low, high = (NAN if values[k] is None else values[k] for k in ('value', 'low', 'high'))
    return value, low, high


def _said(bounds: scores.Bounds) -> tuple[str, str]:
    """A score and its interval, in words."""
    value, low, high = bounds
    if np.isnan(value):
        return '–', ''
    return f'{value:.3f}', '' if np.isnan(low) else f'{low:.3f} to {high:.3f}'


def _tiles(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    covered, average = figures['coverage'], _said(_bounds(figures['average']))
    without = _said(_bounds(figures['average_without_math_and_code']))
    tiles = [
        (average[0], f'average of the classes ({average[1]})' if average[1] else 'average'),
        (without[0], f'without math and code ({without[1]})' if without[1] else 'without those'),
        (f'{figures["questions"]:,}', f'questions, judged by {figures["judge"]}'),
        (
            page.percent(covered['read'] / covered['judgings']),
            f'of {covered["judgings"]:,} judgings have a score',
        ),
    ]
    names = {
        'unparsed': 'verdicts that could not be read',
        'given_up': 'verdicts that the server did not give',
        'not_judged': 'judgings not made',
        'unanswered': 'questions that the server did not answer',
        'too_long': 'questions beyond the context',
        'cut': 'answers that reached the longest length',
    }
    return tiles + [(f'{covered[key]:,}', text) for key, text in names.items() if covered[key]]


def _histogram(values_q: np.ndarray) -> list[tuple[float, float, int]]:
    counts, edges = np.histogram(values_q[np.isfinite(values_q)], BINS, (0.0, 1.0))
    return [(float(a), float(b), int(n)) for a, b, n in zip(edges, edges[1:], counts)]


def _scaling(
    labels: Sequence[str], figures: Sequence[Mapping[str, Any]]
) -> list[tuple[str, Markup]]:
    """Score over size for each class, where the labels are numbers of at least two sizes."""
    read = [SIZE.fullmatch(label.strip()) for label in labels]
    if len(labels) < 2 or not all(read):
        return []
    sizes = [float(m[1].replace(',', '')) * UNITS[m[2].lower()] for m in read if m]
    order = sorted(range(len(sizes)), key=sizes.__getitem__)
    charts = []
    for kind in ('average', *figures[0]['classes']):
        values = [f['average'] if kind == 'average' else f['classes'].get(kind) for f in figures]
        points = [(sizes[i], _bounds(values[i])[0]) for i in order]
        points = [(x, y) for x, y in points if not np.isnan(y)]
        charts.append((kind, page.lines([(kind, 'a', points)], 'training rows', '{:.2f}'.format)))
    return charts


def _trust(figures: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What is known of the judge, in pairs of a name and a sentence."""
    lines = []
    if agree := figures.get('judgings_agree'):
        averages = ', '.join(_number(value) for value in agree['averages'])
        lines.append(
            (
                'several judgings',
                f'the scores of one answer lie {_number(agree["spread"])} apart on average '
                f"(Krippendorff's alpha {_number(agree['alpha'])}); the averages of the judgings "
                f'alone are {averages}',
            )
        )
    length = _said(_bounds(figures['length_and_score']))
    lines.append(
        (
            'length',
            f'rank correlation of the length of answers with their score: {length[0]} '
            f'({length[1]})',
        )
    )
    if person := figures.get('person'):
        rank = _said(_bounds(person['spearman']))
        lines.append(
            (
                'a person',
                f'{person["answers"]:,} answers: rank correlation {rank[0]} ({rank[1]}), kappa '
                f'{_number(person["kappa"])}, with quadratic weights '
                f'{_number(person["weighted_kappa"])}',
            )
        )
    if pairs := figures.get('pairs'):
        margin = _said(_bounds(pairs['margin']))
        lines.append(
            (
                f'against {pairs["against"]}',
                f'better in {pairs["win"]:,} pairs, alike in {pairs["tie"]:,}, worse in '
                f'{pairs["loss"]:,} (margin {margin[0]}, {margin[1]}); the order changed the '
                f'verdict of {_number(pairs["flips"])} of them, and the answer shown first got '
                f'{_number(pairs["first"])} of the verdicts',
            )
        )
    return lines


def _number(value: float | None) -> str:
    return '–' if value is None else f'{value:.3f}'


def _questions(found: Results) -> list[dict[str, Any]]:
    """Each question with all that is known of it, for the page's script."""
    seen = {finding['question'] for finding in found.contamination.get('findings', ())}
    verdicts: dict[int, list[Any]] = {}
    for verdict in found.verdicts:
        said = verdict.error or verdict.reply
        verdicts.setdefault(verdict.number, []).append([verdict.value, said, verdict.again])
    return [
        {
            'number': question.number,
            'kind': question.kind,
            'question': question.text,
            'reference': question.reference,
            'answer': answer.text,
            'ended': answer.finish_reason,
            'score': None if np.isnan(value) else round(float(value), 4),
            'verdicts': verdicts.get(question.number, []),
            'seen': question.number in seen,
        }
        for question, answer, value in zip(
            found.evaluation.questions, found.answers, found.values_q
        )
    ]
