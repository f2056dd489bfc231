"""What is given on the command line and cannot be taken is refused; what lies elsewhere is fetched.

A program with several actions has one table of what each of them reads; whatever stands in no table
is read by all.
"""

import dataclasses
import difflib
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from absl import flags

from belle_jax import storage

URL = re.compile(r'(?:^|(?<=,))(?:gs|s3)://[^,=]+')
# What is read, by any program; and what is looked after where it is used.
FETCHED = (
    'adapter add against answers base calibration categories characters corpus delta key model '
    'others prompts prompt_file questions report_text seed_tasks_path seeds source text train '
    'tuned weights'
).split()
REMOTE = (
    'workdir config.model.source config.data.path config.data.validation.path '
    'config.data.tokenizer config.data.cache_dir config.train.sample_prompts'
).split()


def table(rows: Mapping[str, str]) -> dict[str, list[str]]:
    """{'a b': 'x y'} as {'a': ['x', 'y'], 'b': ['x', 'y']}."""
    return {name: readers.split() for names, readers in rows.items() for name in names.split()}


def require_read(
    read_by: Mapping[str, Iterable[str]],
    *readers: str,
    unread_beside: Mapping[str, str] | None = None,
) -> None:
    """Refuses flags of the command line that do nothing there.

    Args:
        read_by: For each flag those who read it.
        readers: What was chosen: an action, or one of its kinds and then the action.
        unread_beside: For each flag that was given, as it was written, those that it makes idle.
    Raises:
        ValueError: one does nothing; it is named, and what it belongs to.
    """
    for name, known in read_by.items():
        if not flags.FLAGS[name].present:
            continue
        if not set(known) & set(readers):
            raise ValueError(
                f'--{name} does nothing with {readers[0]}: it belongs to {", ".join(known)}. '
                'Leave it out.'
            )
        for other, idle in (unread_beside or {}).items():
            if name in idle.split():
                raise ValueError(f'--{name} does nothing beside {other}: leave one of them out.')


def require_finite() -> None:
    """Refuses a number that is none: nan, inf."""
    for name, value in flags.FLAGS.flag_values_dict().items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f'--{name}={value} must be a finite number.')


def fetch_places() -> None:
    """Has flags that name something on an object store, gs:// or s3://, name its copy here.

    Raises:
        ValueError: a flag names what is written, or what must lie on a disk for another reason.
        OSError: as `storage.local`.
    """
    given = {}
    for name, value in flags.FLAGS.flag_values_dict().items():
        texts = value if isinstance(value, list) else [value]
        found = [text for text in texts if isinstance(text, str) and URL.search(text)]
        if found and name not in (*REMOTE, *FETCHED):
            raise ValueError(
                f'--{name}={found[0]} must be on a disk: on an object store may lie what a program '
                "reads, and training's --workdir. Copy it here before, or from here afterwards "
                '(gcloud storage cp, aws s3 cp).'
            )
        if found and name in FETCHED:
            given[name] = texts
    for name, texts in given.items():
        here = [URL.sub(lambda url: str(storage.local(url[0])), text) for text in texts]
        flag = flags.FLAGS[name]
        flag.value = here if isinstance(flag.value, list) else here[0]


def require_fields(argv: Sequence[str]) -> None:
    """Names a recipe's field that does not exist, for which ml_collections has its last word."""
    given = [w.partition('=')[0].removeprefix('--config.') for w in argv if w[:9] == '--config.']
    if not given:
        return
    from belle_jax import config  # slow to import, and few programs have recipes

    known = list(_fields(config.default().to_dict()))
    known += _fields(dataclasses.asdict(config.Architecture()), 'model.architecture.')
    for name in given:
        if name not in known and not any(field.startswith(f'{name}.') for field in known):
            group = name.rpartition('.')[0]
            beside = [field for field in known if field.rpartition('.')[0] == group] or known
            close = closest(name, beside) or closest(name, known)
            raise ValueError(
                f'--config.{name} is not a field of a recipe'
                + (f'; did you mean --config.{close}?' if close else '.')
                + f' Beside it there are {", ".join(beside)}.'
            )


def _fields(tree: Mapping[str, Any], before: str = '') -> Iterator[str]:
    """The names of a configuration's fields, such as optim.learning_rate."""
    for name, value in tree.items():
        yield from (
            _fields(value, f'{before}{name}.') if isinstance(value, dict) else [before + name]
        )


def closest(word: str, known: Iterable[str]) -> str:
    """The known name that may be meant: spelled alike, or of words with these first letters."""
    known = list(known)
    last = word.rpartition('.')[2]
    words = {name: name.rpartition('.')[2].split('_') for name in known}
    initials = [name for name in known if ''.join(part[:1] for part in words[name]) == last]
    return next(iter([*initials, *difflib.get_close_matches(word, known, 1)]), '')
