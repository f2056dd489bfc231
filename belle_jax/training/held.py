"""What a run directory holds from before, and what that fixes: nothing, until a model is in it."""

from pathlib import Path
from typing import Any

from flax.traverse_util import flatten_dict

from belle_jax import config
from belle_jax.config import Run
from belle_jax.data import Tokenizer
from belle_jax.json_files import read_json
from belle_jax.runs import run_directory
from belle_jax.runs.load import open_parameters
from belle_jax.runs.parameters import identity

FIXED = (
    'seed', 'model', 'data', 'batch', 'optim', 'adapter', 'train.objective', 'train.only',
    'train.freeze', 'train.rows_from',
)  # fmt: skip
"""What decides the numbers of a run: it is continued with the values that it began with."""

FREE = ('model.attention', 'model.remat', 'model.scan', 'data.cache_dir', 'batch.accumulation')
BY_CONTENT = ('model.source', 'data.path', 'data.tokenizer', 'data.validation.path')
"""Places: the same weights, rows and tokens may be read from anywhere."""


class Held:
    """A run directory as a start finds it.

    Attributes:
        workdir: The directory.
        trained: Whether it has a checkpoint of training.
        converted: Whether it has a published model as it came, which fixes that and nothing else.
        run: The configuration of the model that it holds. None: it holds none, and what else is
            there has been left by a start that came to nothing.
    """

    def __init__(self, workdir: Path):
        """Looks; a config.json that is not a run's is a ValueError: it would be written over."""
        folder, saved = workdir / run_directory.CHECKPOINTS, workdir / run_directory.CONFIG
        complete = [folder / p.name.split('.')[0] for p in folder.glob('*.manifest.json')]
        complete = [path for path in complete if path.is_dir()]
        self.workdir = workdir
        try:
            before = config.load(saved) if saved.exists() else None
        except ValueError as error:
            raise ValueError(
                f'{saved} is not the configuration of a run ({error}). Give another --workdir.'
            ) from error
        self.run = before if complete else None
        self.trained = any(map(_is_trained, complete))
        self.converted = self.run is not None and not self.trained

    def check(self, now: Run) -> None:
        """Refuses a configuration with another value of a fixed field; places are left out."""
        if self.run is None:
            return
        if bool(self.run.model.source) != bool(now.model.source):
            raise self.another('model.source')
        own = self.run.adapter
        if self.converted and own.rank:  # of PEFT's files
            architecture: Any = self.run.model.architecture
            what = [a.low_rank(architecture) for a in (own, now.adapter)]
            if what[0] != what[1] or own.also != now.adapter.also:
                raise self.another('adapter')
        before, values = (flatten_dict(r.to_dict(), sep='.') for r in (self.run, now))
        for name, value in values.items() if self.trained else ():
            fixed = any(name == field or name.startswith(f'{field}.') for field in FIXED)
            if fixed and name not in (*FREE, *BY_CONTENT) and before.get(name) != value:
                raise self.another(name)

    def check_tokenizer(self, kept: Tokenizer, given: Tokenizer) -> None:
        """Refuses a tokenizer that is not the one in the directory, wherever it lies."""
        if (kept.fingerprint(), kept.chat_template) == (given.fingerprint(), given.chat_template):
            return
        if self.run:
            raise self.another('data.tokenizer')
        raise ValueError(
            f'{kept.directory} is another tokenizer than --config.data.tokenizer names, and the '
            'run would keep its own there: name it, or give a new --workdir.'
        )

    def check_source(self, recorded: str | None, source: str) -> None:
        """Refuses a source whose `identity` is not the recorded one, wherever it lies."""
        elsewhere = self.run and source not in ('', self.run.model.source)
        if elsewhere and recorded != identity(open_parameters(source)):
            raise self.another('model.source')

    def another(self, name: str) -> ValueError:
        """What is said of a field that may not change."""
        return ValueError(
            f'{self.workdir} holds a run with another --config.{name}: a run is continued with '
            'what it began with. Give a new --workdir, or the values in '
            f'{self.workdir / run_directory.CONFIG}.'
        )


def _is_trained(checkpoint: Path) -> bool:
    try:
        return read_json(checkpoint / 'meta' / 'metadata').get('optimiser', True)
    except ValueError:  # damaged: it is named when it is opened
        return True
