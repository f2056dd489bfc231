"""What a run keeps of the model that it began with, so that an export can give it back.

`RUN/source/` holds the published `config.json`, `generation_config.json`, model card and licence as
they were, and `origin.json`: where they came from and in which dtype. `RUN/tokenizer/` holds the
tokenizer's files.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from belle_jax.data.tokenizer import FILES as TOKENIZER_FILES
from belle_jax.weights import huggingface, run_directory, shards
from belle_jax.weights.parameters import common_dtype

ORIGIN = 'origin.json'


def keep(source: str | Path, run: Path, name: str = '') -> None:
    """Copies a source's small files into a run directory.

    Args:
        source: A Hugging Face directory, a hub name, a run directory or a checkpoint.
        run: The run directory; its `tokenizer/` is left alone if it is there already.
        name: What `origin.json` calls the source; the source itself by default.
    """
    path = huggingface.resolve(source)
    target = run / run_directory.SOURCE
    if run_directory.is_run_directory(path):
        before = run_directory.root(path)
        if (before / run_directory.SOURCE).is_dir():
            shutil.copytree(before / run_directory.SOURCE, target, dirs_exist_ok=True)
        tokenizer = before / run_directory.TOKENIZER
    else:
        huggingface.copy(path, target, huggingface.SETTINGS_FILES + huggingface.LICENCE_FILES)
        stored = shards.read(path)
        dtype = common_dtype({t.place: t.array.dtype for t in stored.values()})
        values = {'source': name or str(source), 'dtype': dtype, 'revision': _revision(path)}
        target.mkdir(parents=True, exist_ok=True)
        (target / ORIGIN).write_text(json.dumps(values, indent=2) + '\n', 'utf-8')
        tokenizer = path
    if not (run / run_directory.TOKENIZER).is_dir():
        huggingface.copy(tokenizer, run / run_directory.TOKENIZER, TOKENIZER_FILES)


def read(run: Path) -> dict[str, Any]:
    """The values of `origin.json`; empty for a run that began with random weights."""
    path = run / run_directory.SOURCE / ORIGIN
    return huggingface.read_json(path) if path.is_file() else {}


def _revision(path: Path) -> str | None:
    """The commit of a hub download, which its cache has in the path."""
    return path.name if path.parent.name == 'snapshots' else None
