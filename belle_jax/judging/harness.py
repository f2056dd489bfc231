"""Other people's tasks: a model of ours behind EleutherAI's lm-evaluation-harness.

The harness makes the requests from its tasks and counts the scores; `harness_model` answers them.
Its task files are programs: their settings may call Python that lies beside them.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from belle_jax.json_files import write_json
from belle_jax.judging.harness_model import HarnessModel

RESAMPLES = 1000
"""For the standard error of a score that is no mean; the harness's 100,000 take minutes."""


def evaluate(
    model: str,
    tasks: Sequence[str],
    *,
    include_path: str = '',
    num_fewshot: int | None = None,
    limit: float | None = None,
    batch_size: int = 8,
    seq_len: int | None = None,
    dtype: str = 'float32',
    apply_chat_template: bool = False,
    template: str = '',
    system: str | None = None,
    devices: int = 1,
    log_samples: bool = False,
    output: str = '',
) -> str:
    """Runs tasks of the harness.

    Args:
        model: Run directory, checkpoint, Hugging Face directory (quantised ones as well) or hub
            name.
        tasks: Names that the harness knows, patterns of them, or task files.
        include_path: A folder of further task files.
        num_fewshot: Examples before each question; None: the task's number.
        limit: Questions of each task, or below 1 that share of them; None: all.
        batch_size: Texts at a time.
        seq_len: Tokens that are read at most; None: the model's context.
        dtype: Of weights and activations.
        apply_chat_template: Whether each question is a conversation.
        template: Of conversations; '': the model's own.
        system: Message of that role; None: the run's.
        devices: That share each weight.
        log_samples: Whether the file holds each request and what came of it.
        output: JSON file for all figures; '': none.
    Returns:
        The table of scores, and where the figures are.
    Raises:
        ValueError: the harness is not installed, a flag is out of range, a task is not known, or
            the model cannot be used.
    """
    try:
        from lm_eval import simple_evaluate, utils
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise ValueError(
            f"lm-evaluation-harness is not installed ({error}): pip install 'belle-jax[harness]'."
        ) from error

    if include_path and not Path(include_path).is_dir():
        raise ValueError(f'--include_path={include_path} is not a directory: name one of tasks.')
    if limit is not None and limit <= 0:
        raise ValueError(f'--limit={limit} must be above 0: questions, or below 1 their share.')
    asked = lm(
        model,
        template=template,
        system=system,
        seq_len=seq_len,
        dtype=dtype,
        batch_size=batch_size,
        devices=devices,
    )
    manager = TaskManager(include_path=include_path or None)
    names = _known(tasks, manager)
    # It would fork to resample, and JAX's threads do not live on in a fork.
    os.environ.setdefault('DISABLE_MULTIPROC', '1')
    results: Any = simple_evaluate(
        asked,
        tasks=names,
        num_fewshot=num_fewshot,
        limit=int(limit) if limit and limit >= 1 else limit,
        batch_size=batch_size,
        bootstrap_iters=RESAMPLES,
        apply_chat_template=apply_chat_template,
        fewshot_as_multiturn=apply_chat_template,
        log_samples=log_samples,
        task_manager=manager,
    )
    said = utils.make_table(results)
    if results.get('groups'):
        said += '\n' + utils.make_table(results, 'groups')
    if output:
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        # Its settings hold functions, its scores numbers of NumPy's.
        write_json(
            Path(output), json.loads(json.dumps(results, default=utils.handle_non_serializable))
        )
        said += f'\nThe figures are in {output}'
    return said


def _known(tasks: Sequence[str], manager: Any) -> list[str]:
    """Task files as they are, and every name that a pattern matches."""
    names = []
    for task in tasks:
        found = [task] if Path(task).is_file() else manager.match_tasks([task])
        if not found:
            raise ValueError(
                f'--tasks: {task!r} is not a task of the harness or a task file: its list is '
                'printed by lm_eval ls tasks, and --include_path names a folder of your own.'
            )
        names += found
    return names


def lm(model: str, **settings: Any) -> Any:
    """A model as the harness takes it: an instance of its own class as well.

    Args:
        model: As in `evaluate`.
        **settings: Those of `HarnessModel`.
    """
    from lm_eval.api.model import LM

    class BelleJax(HarnessModel, LM):
        """What the harness names in its results."""

    return BelleJax(model, **settings)
