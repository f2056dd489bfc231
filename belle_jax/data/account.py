"""The account of a run's rows: what was read, what became of each, and how full the batches are."""

import pathlib
from typing import Any

REASONS = {
    'nothing_to_learn': 'dropped, nothing to learn from',
    'later_turns_left_out': 'truncated, later turns left out',
    'prompt_shortened': 'truncated, middle of the prompt left out',
    'answer_shortened': 'truncated, middle of an answer left out',
    'texts_split': 'texts split into segments',
}


class Account(dict):
    """Plain values, for data.json and model cards; as text, lines for people.

    seq_len, template, rows_per_epoch, fingerprint, and for each entry of `sources` and
    `validation`: what the reader found (describe, rows, skipped by reason, unanswered), what became
    of the examples (kept, `REASONS`, validation, copies_of_validation), tokens and
    trained_tokens, bins and packing_efficiency.
    """

    def to_dict(self) -> dict[str, Any]:
        """A plain dict."""
        return dict(self)

    def __str__(self) -> str:
        return _report(self)


def _report(account: dict[str, Any]) -> str:
    lines = []
    for entry in account['sources']:
        lines.append(f'{entry["describe"]}, weight {entry["weight"]:g}')
        lines += _rows(entry)
    for entry in account.get('validation', []):
        name = pathlib.Path(entry['describe'].split(':')[0]).name
        lines.append(f'validation: {entry["records"]:,} conversations of {name}')
        lines += _rows(entry)
    total = {k: sum(e[k] * e['weight'] for e in account['sources']) for k in ('tokens', 'bins')}
    lines.append(
        f'an epoch: {account["rows_per_epoch"]:,} rows of {account["seq_len"]:,}, '
        f'{round(total["tokens"]):,} tokens, packing efficiency '
        f'{total["tokens"] / max(1, total["bins"] * account["seq_len"]):.1%}'
    )
    return '\n'.join(lines)


def _rows(entry: dict[str, Any]) -> list[str]:
    skipped = [f'skipped, {reason}: {n:,}' for reason, n in entry['skipped'].items()]
    held = [
        f'{words}: {entry[key]:,}'
        for key, words in (
            ('unanswered', 'a last question without an answer left out'),
            ('validation', 'held out for validation'),
            ('copies_of_validation', 'dropped, the same as a held-out one'),
        )
        if entry.get(key)
    ]
    reasons = [f'{words}: {entry[key]:,}' for key, words in REASONS.items() if entry[key]]
    left_out = entry.get('tokens_left_out', 0)
    tokens = (
        f'kept {entry["kept"]:,} of {entry["examples"]:,} examples: {entry["tokens"]:,} tokens, '
        f'{entry["trained_tokens"]:,} of them learnt from'
        + (f', {left_out:,} left out' if left_out else '')
        + f'; {entry["bins"]:,} rows, {entry["packing_efficiency"]:.1%} full'
    )
    return ['  ' + line for line in (*skipped, *held, *reasons, tokens)]
