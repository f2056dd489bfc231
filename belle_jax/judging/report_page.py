"""The page of a report: charts and tables of the figures, and every question with its verdicts."""

import base64
import hashlib
import importlib.resources
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from markupsafe import Markup

from belle_jax.judging import figures, report_charts
from belle_jax.judging.report_charts import AVERAGES, bounds
from belle_jax.judging.results import Results
from belle_jax.pages import page, scores

COVERED = {
    'judgings': 'wanted',
    'read': 'have a score',
    'asked_again': 'were asked for once more',
    'unparsed': 'could not be read, not even then',
    'given_up': 'the server did not give',
    'not_judged': 'were not made',
    'unanswered': 'questions without an answer from the server',
    'too_long': 'questions beyond the context, with an empty answer',
    'cut': 'answers that reached the longest length',
}
Figures = Mapping[str, Any]


def render(found: Mapping[str, Results], made: Mapping[str, Figures], compared: Figures) -> str:
    """The whole page.

    Args:
        found: Evaluations by name, the one that is reported first.
        made: The figures of each.
        compared: The comparisons of the first with each other one.
    """
    labels, (ours, *_), (first, *_) = list(found), list(found.values()), list(made.values())
    settings = ours.evaluation.settings
    rows = [
        (kind, [bounds(one['classes'][kind]) for one in made.values()]) for kind in first['classes']
    ]
    script = (importlib.resources.files('belle_jax.pages') / 'evaluation.js').read_text('utf-8')
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    data = json.dumps(_questions(ours), ensure_ascii=False)
    return page.render(
        'evaluation.jinja',
        title=f'Evaluation: {settings["model"]}',
        digest=digest,
        script=Markup(script),
        # In a script's text nothing is escaped, so no tag may begin in it.
        data=Markup(data.replace('<', '\\u003c')),
        tiles=_tiles(first),
        labels=labels,
        rows=[
            (kind, _of(first['classes'][kind]), [_said(value) for value in values])
            for kind, values in rows
        ],
        averages=[
            (title, [_said(bounds(one[key])) for one in made.values()]) for title, key in AVERAGES
        ],
        bars=scores.interval_bars(labels, rows),
        radar=scores.radar(labels, rows),
        histogram=report_charts.histogram(ours.values_q, 'mean score of a question'),
        coverage=[(text, f'{first["coverage"][key]:,}') for key, text in COVERED.items()],
        missing=first['average_if_missing_were'],
        scaling=report_charts.scaling(made),
        compared=[
            (label, _said(bounds(one['difference']), '+'), one) for label, one in compared.items()
        ],
        cautions=cautions(compared),
        spread=first['judgings'] > 1
        and report_charts.histogram(
            report_charts.spread(ours), 'highest less lowest score of an answer'
        ),
        length=report_charts.by_length(ours),
        trust=_trust(first),
        pairs=_pairs(first.get('pairs')),
        contamination=_contamination(first),
        settings=[
            (key, json.dumps(v, ensure_ascii=False) if isinstance(v, dict) else v)
            for key, v in settings.items()
        ],
        kinds=list(first['classes']),
    )


def cautions(compared: Figures) -> list[str]:
    """Sentences about comparisons that are none of the models alone."""
    return [
        f'{label} was judged with other {" and ".join(one["conditions"])}: the difference may be '
        "the judge's."
        for label, one in compared.items()
        if one['conditions']
    ]


# --- numbers in words -----------------------------------------------------------------------------


def _said(of_one: scores.Bounds, sign: str = '') -> tuple[str, str]:
    """A number and its interval, in words."""
    value, low, high = (f'{number:{sign}.3f}' for number in of_one)
    if np.isnan(of_one[0]):
        return '–', ''
    return value, '' if np.isnan(of_one[1]) else f'{low} to {high}'


def _text(values: Figures, sign: str = '') -> str:
    value, range_ = _said(bounds(values), sign)
    return f'{value} ({range_})' if range_ else value


def _number(value: float | None) -> str:
    return '–' if value is None else f'{value:.3f}'


def _share(value: float | None) -> str:
    return '–' if value is None else page.percent(value)


def _of(of_class: Figures) -> str:
    """How many questions of a class have a score."""
    count, scored = of_class['questions'], of_class['scored']
    return f'{count:,}' if scored == count else f'{scored:,} of {count:,}'


def _tiles(first: Figures) -> list[tuple[str, str]]:
    covered = first['coverage']
    averages = [(*_said(bounds(first[key])), title) for title, key in AVERAGES]
    return [
        *((value, f'{title} ({range_})' if range_ else title) for value, range_, title in averages),
        (f'{first["questions"]:,}', f'questions, judged by {first["judge"]}'),
        (
            _share(covered['read'] / covered['judgings']),
            f'of {covered["judgings"]:,} judgings have a score',
        ),
    ]


def _trust(first: Figures) -> list[tuple[str, str]]:
    """What is known of the judge, in pairs of a name and a sentence."""
    lines = []
    if agree := first.get('judgings_agree'):
        averages = ', '.join(_number(value) for value in agree['averages'])
        lines.append(
            (
                'several judgings',
                f'the scores of one answer lie {_number(agree["spread"])} apart on average '
                f"(Krippendorff's alpha {_number(agree['alpha'])}); the averages of the judgings "
                f'alone are {averages}',
            )
        )
    length = first['length_and_score']
    lines.append(
        (
            'length',
            f'rank correlation of the length of answers with their score: {_text(length)}; within '
            f'the classes: {_text(length["within_classes"])}',
        )
    )
    if person := first.get('person'):
        lines.append(
            (
                'a person',
                f'{person["answers"]:,} answers: rank correlation {_text(person["spearman"])}, '
                f'kappa {_number(person["kappa"])}, with quadratic weights '
                f'{_number(person["weighted_kappa"])}',
            )
        )
    return lines


def _pairs(pairs: Figures | None) -> dict[str, Any] | None:
    """The section of answers that were compared one by one."""
    if not pairs:
        return None
    names = {'win': 'better', 'tie': 'alike', 'loss': 'worse'}
    read = sum(pairs[key] for key in names)
    lines = [
        ('margin', f'{_text(pairs["margin"], "+")}: verdicts for it less those against it, of all'),
        (
            'order',
            f'{_share(pairs["flips"])} of the pairs have another winner, or none, when the answers '
            f'change places; the answer shown first got {_share(pairs["first"])} of the verdicts '
            f'with a winner (sign test, p = {pairs["p_value"]:.3g})',
        ),
        ('unread', f'{pairs["unparsed"]:,} pairs lack one or both of their verdicts'),
    ]
    if longer := pairs.get('length_bias'):
        lines.append(
            (
                'length',
                f'the longer answer won {longer["longer"]:,} pairs, the shorter one '
                f'{longer["shorter"]:,} (sign test, p = {longer["p_value"]:.3g})',
            )
        )
    else:
        lines.append(('length', 'not known: the answers compared with are not there any more'))
    items = [(name, pairs[key], '') for key, name in names.items()]
    return {'against': pairs['against'], 'judge': pairs['judge'], 'lines': lines} | {
        'bars': page.bars(items, read)
    }


def _contamination(first: Figures) -> dict[str, Any] | None:
    """The section of questions that training data hold."""
    if not (found := first.get('contamination')):
        return None
    without = found['without_them']
    averages = [
        (title, [_said(bounds(one[key])) for one in (first, without)]) for title, key in AVERAGES
    ]
    return {'rows': found['rows'], 'questions': found['questions'], 'averages': averages}


# --- questions ------------------------------------------------------------------------------------


def _questions(found: Results) -> list[dict[str, Any]]:
    """Each question with all that is known of it, for the page's script."""
    seen = {}
    for finding in found.contamination.get('findings', ()):
        seen.setdefault(finding['question'], finding.get('kind'))  # the strongest comes first
    verdicts: dict[int, list[Any]] = {}
    for v in found.verdicts:
        shown = [v.value, v.error or v.reply, v.again, bool(v.error)]
        verdicts.setdefault(v.number, []).append(shown)
    pairs: dict[int, list[Any]] = {}
    for v in found.pairs:
        pairs.setdefault(v.number, []).append([v.judging, v.value, v.error or v.reply])
    opponent = [answer.text for answer in found.opponent] or [None] * len(found.answers)
    return figures.plain(
        [
            {
                'number': question.number,
                'kind': question.kind,
                'question': question.text,
                'reference': question.reference,
                'answer': answer.text,
                'ended': answer.finish_reason,
                'score': round(float(value), 4),
                'spread': round(float(spread), 4),
                'person': float(person),
                'verdicts': verdicts.get(question.number, []),
                'opponent': other,
                'pairs': pairs.get(question.number, []),
                'seen': seen.get(question.number),
            }
            for question, answer, value, spread, person, other in zip(
                *(
                    found.evaluation.questions,
                    found.answers,
                    found.values_q,
                    report_charts.spread(found),
                ),
                *(found.person_q, opponent),
            )
        ]
    )
