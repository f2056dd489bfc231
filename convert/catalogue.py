"""The models that BELLE published, and the commands that bring them in.

    belle-jax convert catalogue

prints the table of docs/belle.md, which is made from catalogue.json beside this file.
"""

import json
from pathlib import Path
from typing import Any

from belle_jax import cli

FILE = Path(__file__).with_name('catalogue.json')
COLUMNS = ('model', 'base', 'files', 'template', 'licence', 'commands')
FORMATS = {
    'bin': '`pytorch_model*.bin`',
    'pdparams': '`.pdparams` of PaddleNLP',
    'enc': '`.enc`',
    'gptq': 'GPTQ `.pt`',
    'gptq, enc': 'GPTQ `.pt`, as `.enc`',
    'ggml': 'ggml',
}
UNREAD = ('ggml',)


def read() -> dict[str, Any]:
    """The catalogue as the file has it."""
    return json.loads(FILE.read_text('utf-8'))


def table(catalogue: dict[str, Any]) -> str:
    """The models as a Markdown table, with the notes under it; ? is what was not seen."""
    models = catalogue['models']
    numbers = {m['id']: n for n, m in enumerate((m for m in models if m['note']), 1)}
    rows = [COLUMNS, ('---',) * len(COLUMNS), *(_row(m, numbers.get(m['id'])) for m in models)]
    lines = ['| ' + ' | '.join(row) + ' |' for row in rows]
    notes = [f'{numbers[m["id"]]}. {m["note"]}' for m in models if m['note']]
    terms = [f'- {term}' for term in catalogue['terms']]
    return '\n'.join([*lines, '', *notes, '', *terms]) + '\n'


def _row(model: dict[str, Any], number: int | None) -> tuple[str, ...]:
    size = f', {model["gigabytes"]} GB' if model['gigabytes'] else ''
    key = f', key: {model["key"]}' if model['key'] else ''
    commands = [f'`{command}`' for command in model['commands']]
    return (
        model['id'] + (f' ({number})' if number else ''),
        model['base'] or '?',
        FORMATS[model['format']] + size + key,
        f'`{model["template"]}`' if model['template'] else '?',
        model['licence'] or '?',
        '<br>'.join(commands + ['not yet'] * (model['format'] in UNREAD)),
    )


if __name__ == '__main__':
    cli.run(lambda: table(read()).rstrip())
