"""Makes instruction data with a language-model server, from a handful of seed tasks.

    export OPENAI_API_KEY=…
    belle-jax generate_data --output=Belle.train.json --count=1000 \\
        --model_name=gpt-4.1-mini --concurrency=32 --budget_usd=5

Any OpenAI-compatible server will do (--base_url=http://localhost:8000/v1). Every reply is in the
journal (Belle.train.journal.sqlite) before it is used: a run that was killed goes on where it was
and pays for nothing twice, and --rebuild makes the rows again, with other filters, without a
request.

Kinds (--kind): self_instruct (BELLE's way), multiturn, dialogue (between two given characters),
math, evol (deepens and widens the rows of --rows), label (gives each row of --rows a category).

Other actions:
    belle-jax generate_data dedupe --rows=a.json,b.jsonl --output=clean.jsonl
    belle-jax generate_data convert --rows=a.json --output=b.jsonl --layout=messages
    belle-jax generate_data review --rows=Belle.train.json
        A page to keep, drop and edit rows by keyboard, and to take back rejected ones. --rebuild
        applies what was decided; for rows without a journal, --apply --output=reviewed.jsonl does.
"""

import sys
from pathlib import Path
from typing import Any

from absl import flags

from belle_jax import cli, server_flags
from belle_jax.disk import distinct
from belle_jax.flag_readers import require_read, table
from belle_jax.synthesis import dedupe, kinds, layouts, review, run, sources
from belle_jax.synthesis.harvest import Files
from belle_jax.synthesis.settings import (
    CHOICES,
    MODELS,
    READ_BY,
    Settings,
    read_turns,
)
from belle_jax.texts.filters import without
from belle_jax.texts.rouge import KINDS as TOKEN_KINDS
from belle_jax.texts.rouge import Tokens
from belle_jax.texts.similarity import MEASURES, Similarity

FLAGS = flags.FLAGS
flags.adopt_module_key_flags(server_flags)  # --help shows them
SEEDS = flags.DEFINE_string('seeds', '', 'Seed tasks; by default our own, in the language.')
OUTPUT = flags.DEFINE_string('output', '', 'Rows: a JSON array, or JSON lines if it ends .jsonl.')
COUNT = flags.DEFINE_integer('count', 100, 'Rows that are enough.', lower_bound=1)
KIND = flags.DEFINE_enum('kind', 'self_instruct', list(kinds.KINDS), 'What is made.')
ROWS = flags.DEFINE_list('rows', [], 'Existing rows: for evol, label, dedupe, convert and review.')
flags.DEFINE_enum('api', 'chat', list(MODELS), 'How the server is asked.')
flags.DEFINE_string('model_name', '', f'As the server knows it; by default {MODELS["chat"]}.')
JOURNAL = flags.DEFINE_string('journal', '', 'By default beside the output.')
REBUILD = flags.DEFINE_boolean('rebuild', False, 'Only from the journal; asks nothing.')
OVERWRITE = flags.DEFINE_boolean(
    'overwrite', False, 'Replace an output whose journal is gone or has become smaller.'
)
GIVE_UP = flags.DEFINE_integer('give_up_after', 100, 'Replies in a row without a row; 0: never.')

SHOTS = flags.DEFINE_integer('num_prompt_instructions', 3, 'Seed tasks in each prompt.')
flags.DEFINE_integer('tasks_per_request', 10, 'New tasks asked for in each prompt.')
flags.DEFINE_string('prompt_file', '', "A prompt in place of the kind's own.")
LANGUAGE = flags.DEFINE_enum('language', 'zh', ['zh', 'en'], 'Of the rows.')
TURNS = flags.DEFINE_list('turns', ['2', '5'], 'Fewest and most questions of a conversation.')
flags.DEFINE_enum('evolve', 'both', CHOICES['evolve'], 'How evol changes instructions.')
CHARACTERS = flags.DEFINE_string('characters', '', 'Pairs for dialogues, JSON lines.')
CATEGORIES = flags.DEFINE_string('categories', '', "Labels; by default BELLE's 13.")
flags.DEFINE_boolean('apart', False, 'Labels as rows of id and category alone.')
flags.DEFINE_integer('longest_answer', 8000, 'Characters of an answer that is kept.')
flags.DEFINE_integer('seed', 0, 'Of every draw.')
flags.DEFINE_float('temperature', 1.0, 'Of sampling.')
flags.DEFINE_float('top_p', 1.0, 'Nucleus of sampling.')
flags.DEFINE_integer('max_tokens', 1024, 'Longest reply.')

SIMILARITY = flags.DEFINE_enum(
    'similarity', 'rouge', [*MEASURES, 'none'], 'ROUGE-L F1, BM25 as BELLE, or nothing.'
)
THRESHOLD = flags.DEFINE_float(
    'threshold', None, 'Score that rejects a row; by default 0.7, and 18 for BM25.'
)
TOKENS = flags.DEFINE_string(
    'tokens',
    '',
    'What is compared: characters, words, or a directory with a tokenizer; by default characters, '
    'and words for --language=en.',
)
NEIGHBOURS = flags.DEFINE_boolean('neighbours', True, "Rows tell their ten nearest, as BELLE's.")
WITHOUT = flags.DEFINE_list('without', [], 'Filters to leave out, by name.')
LAYOUT = flags.DEFINE_enum('layout', 'messages', list(layouts.LAYOUTS), 'For convert.')
SEPARATOR = flags.DEFINE_string(
    'separator', 'line', 'For convert, between instruction and input: line, belle or a text.'
)
COMPARE = flags.DEFINE_enum('compare', 'question', list(dedupe.COMPARE), 'Of rows, by dedupe.')
ON_BAD_ROW = flags.DEFINE_enum('on_bad_row', 'error', ['error', 'skip'], 'For convert and dedupe.')
HOST = flags.DEFINE_string('host', '127.0.0.1', 'Of the page of review: who may reach it.')
PORT = flags.DEFINE_integer('port', 0, 'Likewise; 0: one that is free.')
APPLY = flags.DEFINE_boolean('apply', False, 'Review: write --output by what was decided.')

# Fields of Settings that have a flag of their name, and take its value as it is.
SETTINGS = (
    'seed language num_prompt_instructions tasks_per_request prompt_file evolve apart '
    'longest_answer api model_name max_tokens temperature top_p'
).split()
# Flags that say how rows are compared.
NEEDS_SIMILARITY = 'threshold tokens neighbours'
# Flags whose values are files to read.
FILES = 'seeds rows prompt_file categories characters tokens'.split()

# BELLE's names.
flags.DEFINE_alias('seed_tasks_path', 'seeds')
flags.DEFINE_alias('num_instructions_to_generate', 'count')
flags.DEFINE_alias('request_batch_size', 'concurrency')
OUTPUT_DIR = flags.DEFINE_string('output_dir', '', 'Where Belle.train.json is, without --output.')
flags.DEFINE_integer('num_cpus', 0, 'Not needed any more: comparing rows takes one.')


def main(action: str = 'generate', *more: str) -> int:
    """Does it, or says why not; returns the exit code."""
    actions = {
        'generate': generate,
        'generate_instruction_following_data': generate,
        'convert': convert,
        'dedupe': deduplicate,
        'review': look,
    }
    if more or action not in actions:
        wrong = (action, *more)[-1]
        raise ValueError(
            f'{wrong!r} is not an action: generate (which may be left out), dedupe, convert and '
            'review are.'
        )
    _require_read('generate' if actions[action] is generate else action)
    return actions[action]()


def generate() -> int:
    """Asks a server for rows; returns the exit code."""
    journal = Path(JOURNAL.value) if JOURNAL.value else None
    files = Files.beside(_output('Belle.train.json'), journal)
    if files.output.exists() and not files.journal.exists() and not OVERWRITE.value:
        raise ValueError(
            f'{files.output} is there already, and no journal {files.journal} that it was made '
            'from: it would be lost. Give another --output, or --overwrite.'
        )
    distinct({f'--{name}': FLAGS[name].value for name in FILES}, files.written)
    settings = _settings()
    kind = kinds.make(KIND.value, settings)
    finite = kind.requests is not None and not FLAGS['count'].present
    job = run.Job(
        kind=kind,
        rules=without(kind.rules, WITHOUT.value),
        similarity=lambda: _similarity(settings),
        count=None if finite else COUNT.value,
        concurrency=server_flags.CONCURRENCY.value,
        budget=server_flags.budget(),
        give_up_after=GIVE_UP.value,
        overwrite=OVERWRITE.value,
    )
    if REBUILD.value:
        result = run.rebuild(job, files)
    else:
        client = server_flags.client(settings.model)
        result = run.generate(job, files, client)
    print(result.account(files))
    if result.complaint:
        print(f'belle_jax.generate_data: {result.complaint}', file=sys.stderr)
        return 130 if result.outcome == 'interrupted' else 1
    return 0


def convert() -> int:
    """Writes rows in another layout; returns the exit code."""
    account = layouts.convert(
        _rows_files(one=True)[0],
        _output(),
        LAYOUT.value,
        separator=SEPARATOR.value,
        on_bad_row=ON_BAD_ROW.value,
        overwrite=OVERWRITE.value,
    )
    print(account)
    return 0


def deduplicate() -> int:
    """Leaves near-duplicates out; returns the exit code."""
    account = dedupe.run(
        _rows_files(),
        _output(),
        0.7 if THRESHOLD.value is None else THRESHOLD.value,
        _tokens(),
        COMPARE.value,
        on_bad_row=ON_BAD_ROW.value,
        overwrite=OVERWRITE.value,
    )
    print(account)
    return 0


def look() -> int:
    """Lets a person decide about rows, or applies what was decided; returns the exit code."""
    rows = Path(_rows_files(one=True)[0])
    if APPLY.value:
        print(review.apply(rows, _output(), OVERWRITE.value))
    else:
        print(review.serve(rows, HOST.value, PORT.value))
    return 0


def _require_read(action: str) -> None:
    making = action == 'generate'
    idle = {
        '--similarity=none': NEEDS_SIMILARITY if making and SIMILARITY.value == 'none' else '',
        '--tokens': 'language' if action == 'dedupe' and TOKENS.value else '',
    }
    chosen = (KIND.value, action) if making else ('--apply' if APPLY.value else action,)
    require_read(table(READ_BY | {server_flags.NAMES: 'generate'}), *chosen, unread_beside=idle)


def _output(default: str = '') -> Path:
    if OUTPUT.value and OUTPUT_DIR.value:
        raise ValueError('--output and --output_dir both say where the rows go: give one of them.')
    name = OUTPUT.value or default
    if not name:
        raise ValueError('name the file of the rows with --output.')
    return Path(OUTPUT_DIR.value, name)


def _rows_files(one: bool = False) -> list[str]:
    if not ROWS.value or (one and len(ROWS.value) > 1):
        raise ValueError(f'name the file{"" if one else "s"} of existing rows with --rows.')
    return ROWS.value


def _settings() -> Settings:
    own_seeds = sources.OWN_SEEDS if LANGUAGE.value == 'zh' else sources.OWN_ENGLISH_SEEDS
    named: dict[str, Any] = {name: FLAGS[name].value for name in SETTINGS}
    return Settings(
        seeds=sources.read_seeds(SEEDS.value or own_seeds, SHOTS.value),
        rows=sources.read_rows(ROWS.value),
        categories=sources.read_categories(CATEGORIES.value) if CATEGORIES.value else (),
        characters=sources.read_objects(CHARACTERS.value) if CHARACTERS.value else (),
        turns=read_turns(TURNS.value),
        request=server_flags.request(),
        **named,
    )


def _similarity(settings: Settings) -> Similarity | None:
    if SIMILARITY.value == 'none':
        return None
    texts = (seed['instruction'] for seed in settings.seeds)
    return Similarity(SIMILARITY.value, _tokens(), THRESHOLD.value, NEIGHBOURS.value, texts)


def _tokens() -> Tokens:
    name = TOKENS.value or ('words' if LANGUAGE.value == 'en' else 'characters')
    if name in TOKEN_KINDS:
        return name
    from belle_jax.data import tokenizer

    return tokenizer.load(name).encode


if __name__ == '__main__':
    cli.run(
        main, actions=None, stopped='stopped; what is in the journal is kept.', stopped_code=130
    )
