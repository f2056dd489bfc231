"""What a run keeps of the model that it began with, so that an export can give it back.

`RUN/source/` holds the published `config.json`, `generation_config.json`, model card and licence as
they were, and `origin.json`: where they came from and in which dtype. `RUN/tokenizer/` holds the
tokenizer's files.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from belle_jax.data import tokenizer
from belle_jax.files import read_json, whole_directory
from belle_jax.formats import huggingface
from belle_jax.runs import run_directory
from belle_jax.weights import shards
from belle_jax.weights.parameters import common_dtype

ORIGIN = 'origin.json'


def keep(source: str | Path, run: Path, name: str = '') -> None:
    """Copies a source's small files into a run directory; each folder appears when it is whole.

    Args:
        source: A Hugging Face directory, a hub name, a run directory or a checkpoint.
        run: The run directory; its `tokenizer/` is left alone if it is there already.
        name: What `origin.json` calls the source; the source itself by default.
    """
    path = huggingface.resolve(source)
    words, before = path, None
    if run_directory.is_run_directory(path):
        before = run_directory.root(path)
        words = before / run_directory.TOKENIZER
    with whole_directory(run / run_directory.SOURCE) as partial:
        if before is None:
            huggingface.copy(path, partial, huggingface.SETTINGS_FILES + huggingface.LICENCE_FILES)
            stored = shards.read(path)
            dtype = common_dtype({t.place: t.array.dtype for t in stored.values()})
            values = {'source': name or str(source), 'dtype': dtype, 'revision': _revision(path)}
            (partial / ORIGIN).write_text(json.dumps(values, indent=2) + '\n', 'utf-8')
        elif (before / run_directory.SOURCE).is_dir():
            shutil.copytree(before / run_directory.SOURCE, partial, dirs_exist_ok=True)
    target = run / run_directory.TOKENIZER
    if target.is_dir():
        return
    if (words / 'vocab.json').is_file() and not (words / 'tokenizer.json').is_file():
        tokenizer.load(words).save(target)  # these files alone do not say how words are split
        return
    with whole_directory(target) as partial:
        huggingface.copy(words, partial, tokenizer.FILES)


def read(run: Path) -> dict[str, Any]:
    """The values of `origin.json`; empty for a run that began with random weights."""
    path = run / run_directory.SOURCE / ORIGIN
    return read_json(path) if path.is_file() else {}


def _revision(path: Path) -> str | None:
    """The commit of a hub download, which its cache has in the path."""
    return path.name if path.parent.name == 'snapshots' else None
