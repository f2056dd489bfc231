"""Checkpoints: asynchronous, atomic, and vouched for by a manifest of checksums.

Orbax writes; a checkpoint counts only once its manifest stands beside it, and only as long as
the files agree with it. Old ones are deleted after that, never before.
"""

import os
import sys
import threading
from collections.abc import Mapping
from logging import getLogger
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils
from orbax.checkpoint import type_handlers

from belle_jax import disk
from belle_jax.files import remove, sweep, without_dots
from belle_jax.json_files import read_json
from belle_jax.runs import run_directory
from belle_jax.runs.workdir import Workdir

# Orbax logs a traceback in every thread that an error passes; the error itself reaches the caller.
logging.get_absl_logger().addFilter(lambda record: 'orbax' not in record.pathname)
# When a write fails, Orbax closes its event loop under the writes beside it, and each would
# have a traceback printed after our sentence, by asyncio or the thread that ran into the loop.
getLogger('asyncio').addFilter(
    lambda record: not record.getMessage().startswith(('Task exception was never', 'Task was des'))
)


def _quiet(unraisable: Any, told: Any = sys.unraisablehook) -> None:
    if str(unraisable.exc_value) != 'Event loop is closed':
        told(unraisable)


sys.unraisablehook = _quiet

CHUNK_BYTES = 64 * 2**20


class Checkpoints:
    """The `checkpoints/` folder of a run directory.

    Every process of a run makes one and calls the same methods in the same order.
    """

    def __init__(
        self,
        directory: Path,
        keep_last: int = 2,
        keep_best: int = 1,
        concurrent_bytes: int | None = None,
        workdir: Workdir | None = None,
    ):
        """Opens the folder; what a killed process left half written is removed.

        Args:
            directory: Made if absent.
            keep_last: Newest checkpoints to keep.
            keep_best: Checkpoints of the lowest evaluation loss to keep.
            concurrent_bytes: How much may be on its way to the disk at once, more than the
                largest array; None: all of it, which takes the host's memory for a second copy.
            workdir: The run directory, where that sends what is saved: in a thread, for which the
                next save waits. It also says whether each process has its own.
        """
        self.directory = directory = without_dots(directory)
        self._keep_last, self._keep_best, self._workdir = keep_last, keep_best, workdir
        self._apart = bool(workdir and workdir.apart)
        self._keeps = self._apart or jax.process_index() == 0
        directory.mkdir(parents=True, exist_ok=True)
        limit = concurrent_bytes / 1e9 if concurrent_bytes else None
        self._manager = _manager(directory.absolute(), limit, self._apart)
        self._finaliser: threading.Thread | None = None
        self._failure: Exception | None = None
        self._losses: dict[int, float | None] = {}
        self.last_saved: int | None = None

    def newest(self) -> int | None:
        """The newest step that its manifest vouches for; damaged ones are named and put aside.

        Process 0 reads the files, and the others take its word; or each reads those of its own
        disk, and what one of them cannot use is used by none.
        """
        step, agreed = sys.maxsize, jax.process_count() == 1
        while True:
            step = self._newest_here(step) if self._keeps else -1
            if not agreed:
                steps = multihost_utils.process_allgather(np.int32(step))
                step = int(steps.min() if self._apart else steps[0])
                agreed = not self._apart or step == steps.max()
            if agreed:
                break
        self._manager.reload()
        return None if step < 0 else step

    def _newest_here(self, limit: int) -> int:
        """The newest good step up to a limit, or -1; newer ones are put aside."""
        self._sweep()
        self._manager.reload()
        for candidate in sorted(self._manager.all_steps(), reverse=True):
            try:
                if candidate > limit:
                    raise ValueError('another process has lost it.')
                run_directory.verify(self.directory / str(candidate))
            except ValueError as error:
                logging.warning('Checkpoint %d is not used: %s', candidate, error)
                self._put_aside(candidate)
                continue
            return candidate
        return -1

    def save(
        self, step: int, params: Mapping[str, Any], optimiser: Any, meta: Mapping[str, Any]
    ) -> None:
        """Starts to save; training goes on meanwhile.

        Args:
            step: Optimiser steps done.
            params: The trained parameters, by name.
            optimiser: The optimiser's state.
            meta: JSON values; `evaluation_loss` decides which checkpoints are best.
        Raises:
            OSError: the save before this one failed.
        """
        self.wait()
        tree = {'params': dict(params), 'optimiser': optimiser}
        args = ocp.args.Composite(
            state=ocp.args.PyTreeSave(tree, save_args=_save_args(tree)),
            meta=ocp.args.JsonSave(dict(meta) | {'step': step}),
        )
        self._losses[step] = meta.get('evaluation_loss')
        self.last_saved = step
        try:
            self._manager.save(step, args=args)
        except Exception as error:
            raise self._error(step, error) from error
        self._finaliser = threading.Thread(target=self._finalise, args=(step,), daemon=True)
        self._finaliser.start()

    def restore(
        self, step: int, params: Mapping[str, Any], optimiser: Any
    ) -> tuple[dict[str, jax.Array], Any]:
        """Reads a checkpoint, onto any mesh.

        Args:
            step: From `newest`.
            params: jax.ShapeDtypeStruct by name, with the shardings wanted.
            optimiser: The optimiser's state, likewise.
        Returns:
            The parameters and the optimiser's state.
        """
        tree = {'params': dict(params), 'optimiser': optimiser}
        where = ocp.checkpoint_utils.construct_restore_args(tree)
        args = ocp.args.Composite(state=ocp.args.PyTreeRestore(tree, restore_args=where))
        state = self._manager.restore(step, args=args)['state']
        self.last_saved = step
        return state['params'], state['optimiser']

    def meta(self, step: int) -> dict[str, Any]:
        """The JSON values saved with a checkpoint."""
        return read_json(self.directory / str(step) / 'meta' / 'metadata')

    def wait(self) -> None:
        """Until the save is complete and vouched for (or an OSError); then old checkpoints go."""
        if self._finaliser is not None:
            self._finaliser.join()
            self._finaliser = None
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        self._prune()

    def check(self) -> None:
        """Raises what a save in the background failed with, if it did."""
        if self._failure is not None:
            self.wait()

    def close(self) -> None:
        """Waits, then lets go."""
        self.wait()
        self._manager.close()

    def _finalise(self, step: int) -> None:
        try:
            self._manager.wait_until_finished()
            if self._keeps:
                folder = self.directory / str(step)
                entries = run_directory.entries_of(folder)
                if self._workdir:
                    entries = self._workdir.share(folder, entries)
                run_directory.write_manifest(folder, entries)
                if self._workdir:
                    self._workdir.send()
        except Exception as error:  # carried over to the main thread
            self._failure = self._error(step, error)

    def _prune(self) -> None:
        """Deletes what need not be kept on a disk; one process does, and nobody waits for it.

        Orbax' own deletion is a meeting of all processes, who would have to agree on what is there.
        """
        if not self._keeps:
            return
        manifests = self.directory.glob('*.manifest.json')
        steps = sorted(int(p.name.split('.')[0]) for p in manifests)
        steps = [s for s in steps if (self.directory / str(s)).is_dir()]
        for step in steps:
            if step not in self._losses:  # of an earlier process
                self._losses[step] = self.meta(step).get('evaluation_loss')
        scored = sorted((loss, s) for s in steps if (loss := self._losses[s]) is not None)
        kept = set(steps[-self._keep_last :]) | {s for _, s in scored[: self._keep_best]}
        for step in set(steps) - kept:
            self._manifest(step).unlink()  # without it the checkpoint no longer counts
            remove(self.directory / str(step))

    def _sweep(self) -> None:
        """Removes what a kill left of a checkpoint that was being written or deleted."""
        sweep(self.directory)
        for step in {path.name.split('.')[0] for path in self.directory.iterdir()}:
            folder, manifest = self.directory / step, self._manifest(step)
            if step.isdigit() and folder.is_dir() != manifest.exists():
                remove(folder)
                remove(manifest)

    def _put_aside(self, step: int) -> None:
        """Renames a damaged checkpoint, so that its step can be saved again."""
        target = self.directory / f'damaged-{step}'
        remove(target)
        (self.directory / str(step)).rename(target)
        self._manifest(step).unlink(missing_ok=True)

    def _manifest(self, step: int | str) -> Path:
        return run_directory.manifest_of(self.directory / str(step))

    def _error(self, step: int, error: Exception) -> OSError:
        text = str(error)  # TensorStore has the system's words in its own
        code = next((code for code in disk.REMEDIES if os.strerror(code) in text), None)
        reason = os.strerror(code).lower() if code else text[:300]
        remedy = disk.REMEDIES[code] if code else 'mend that'
        return OSError(
            f'checkpoint {step} could not be saved in {self.directory} ({reason}). The checkpoints '
            f'before it are intact: {remedy}, and start the same command again.'
        )


def _manager(directory: Path, limit: float | None, apart: bool) -> ocp.CheckpointManager:
    """What writes; with a limit in GB on what is on its way.

    Where processes are apart, each writes what describes the arrays, and the shards that it holds
    as files of their own: OCDBT's, of all processes, would have to become one on a disk.
    """
    processes = ocp.options.MultiprocessingOptions(primary_host=None if apart else 0)
    options = ocp.CheckpointManagerOptions(
        max_to_keep=None,
        enable_async_checkpointing=True,
        cleanup_tmp_directories=True,
        create=False,
        multiprocessing_options=processes,
    )
    handlers = None
    if limit or apart:
        # One replica is written, by whoever holds it; and Zarr 3 has no hidden files.
        arrays = type_handlers.ArrayHandler(
            primary_host=None, replica_id=0, use_replica_parallel=False
        )
        registry = type_handlers.create_type_handler_registry((jax.Array, arrays))
        own: dict[str, Any] = {'use_ocdbt': False, 'use_zarr3': True}
        own |= {'multiprocessing_options': processes, 'type_handler_registry': registry}
        state = ocp.PyTreeCheckpointHandler(save_concurrent_gb=limit, **(own if apart else {}))  # type: ignore[arg-type]
        meta = ocp.JsonCheckpointHandler(multiprocessing_options=processes)
        handlers = {'state': state, 'meta': meta}
    return ocp.CheckpointManager(directory, options=options, item_handlers=handlers)


def _save_args(tree: Any) -> Any:
    """Chunks of one layer, or less of a large one, or of a part of a table: readers take slices."""

    def of_leaf(path: Any, leaf: Any) -> ocp.SaveArgs:
        stacked = any(str(getattr(k, 'key', '')).startswith('blocks.') for k in path)
        # Orbax splits the axes in `shard_axes` down to 1: right for layers, not for a table's rows.
        axes = (0,) if stacked and len(leaf.shape) > 1 else ()
        return ocp.SaveArgs(chunk_byte_size=CHUNK_BYTES, shard_axes=axes)

    return jax.tree_util.tree_map_with_path(of_leaf, tree)
