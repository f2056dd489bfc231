"""What a run keeps of the model that it began with, so that an export can give it back.

`RUN/source/` holds the published `config.json`, `generation_config.json`, model card and licence as
they were, and `origin.json`: where they came from and in which dtype. `RUN/tokenizer/` holds the
tokenizer's files.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from belle_jax.data import tokenizer as tokenizers
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
    tokenizer = path
    partial = run / f'.{run_directory.SOURCE}.partial'
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed here
    if run_directory.is_run_directory(path):
        before = run_directory.root(path)
        if (before / run_directory.SOURCE).is_dir():
            shutil.copytree(before / run_directory.SOURCE, partial)
        tokenizer = before / run_directory.TOKENIZER
    else:
        huggingface.copy(path, partial, huggingface.SETTINGS_FILES + huggingface.LICENCE_FILES)
        stored = shards.read(path)
        dtype = common_dtype({t.place: t.array.dtype for t in stored.values()})
        values = {'source': name or str(source), 'dtype': dtype, 'revision': _revision(path)}
        partial.mkdir(parents=True, exist_ok=True)
        (partial / ORIGIN).write_text(json.dumps(values, indent=2) + '\n', 'utf-8')
    _keep_tokenizer(tokenizer, run / run_directory.TOKENIZER)
    if partial.is_dir():
        shutil.rmtree(run / run_directory.SOURCE, ignore_errors=True)
        partial.rename(run / run_directory.SOURCE)


def _keep_tokenizer(source: Path, target: Path) -> None:
    if target.is_dir():
        return
    if (source / 'vocab.json').is_file() and not (source / 'tokenizer.json').is_file():
        tokenizers.load(source).save(target)  # these files alone do not say how words are split
        return
    partial = target.with_name(f'.{target.name}.partial')
    shutil.rmtree(partial, ignore_errors=True)
    if huggingface.copy(source, partial, tokenizers.FILES):
        partial.rename(target)


def read(run: Path) -> dict[str, Any]:
    """The values of `origin.json`; empty for a run that began with random weights."""
    path = run / run_directory.SOURCE / ORIGIN
    return huggingface.read_json(path) if path.is_file() else {}


def _revision(path: Path) -> str | None:
    """The commit of a hub download, which its cache has in the path."""
    return path.name if path.parent.name == 'snapshots' else None
