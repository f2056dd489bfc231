"""A run directory, which may be the copy of a place on an object store, or several of them.

Processes of one job that have no disk in common have a copy each. Each process fetches all that the
place has, and writes its own part of a checkpoint; of the files that several write alike, one
process keeps each. A checkpoint's files are then those of all copies together. All send theirs, and
process 0, whose manifest has the sums of all, sends that when everybody is done.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from absl import logging

from belle_jax.cluster import Member
from belle_jax.files import locked
from belle_jax.storage import Place, is_remote, newest, whole

UNSENT = '.unsent'  # stands in the copy from before something is sent until all was
PAUSES = (1.0, 4.0, 16.0)  # seconds between tries to send, beside those of the libraries


class Workdir:
    """A run directory, `path`; where it is the copy of a place on a store, that follows it."""

    def __init__(self, place: str | Path):
        """Takes what --workdir says."""
        self._place = Place(place, 'runs') if is_remote(place) else None
        self._member: Member | None = None  # of a job whose processes have a copy each
        self.path = self._place.copy if self._place else Path(place)

    def __str__(self) -> str:
        if self._place is None:
            return str(self.path)
        return f'{self._place} (here {self.path}, below BELLE_JAX_CACHE)'

    def join(self, member: Member | None) -> None:
        """Makes this one of several copies, where processes of a job have no disk in common.

        From then on all call `fetch`, `share` and `send`, in the same order.
        """
        self._member = member if member and member.apart else None

    @property
    def apart(self) -> bool:
        """Whether each process has a copy of its own."""
        return self._member is not None

    def fetch(self) -> None:
        """Makes the copy what the store has, unless it has a newer checkpoint that was not sent.

        One of several copies holds a part of such a checkpoint, and is made what the store has.

        Raises:
            ValueError: another process trains in it.
            OSError: the store cannot be read.
        """
        if self._place is None:
            return
        there = whole(self._place.list())
        self.path.mkdir(parents=True, exist_ok=True)
        busy = ValueError(
            f'{self} is being trained in by another process: wait for it, or, if that is one of '
            'this job, give each its own BELLE_JAX_CACHE.'
        )
        with locked(self.path / '.lock', busy):
            unsent = self.path / UNSENT
            ahead = unsent.exists() and newest(self._place.files()) > newest(there)
            if self.apart or not ahead:
                self._place.follow(there)
                unsent.unlink(missing_ok=True)

    def share(self, folder: Path, entries: Mapping[str, Any]) -> Mapping[str, Any]:
        """Removes from a checkpoint here what another process keeps.

        Args:
            folder: The checkpoint.
            entries: What its manifest would say of the files that are here.
        Returns:
            What its manifest is to say: in process 0 of the files of all; elsewhere nothing, so
            that a part is never taken for a checkpoint.
        """
        if self._member is None:
            return entries
        merged: dict[str, Any] = {}

        def keepers(parts: list[Mapping[str, Any]]) -> dict[str, int]:
            first, several = {}, {}
            for number, part in enumerate(parts):
                several |= {name: first[name] for name in part.keys() & first.keys()}
                merged.update({n: entry for n, entry in part.items() if n not in first})
                first = dict.fromkeys(part, number) | first
            return several

        for name, number in self._member.decide(dict(entries), keepers).items():
            if name in entries and number != self._member.process:
                (folder / name).unlink()
        return merged

    def send(self, must: bool = False) -> None:
        """Sends what is new; what fails is tried again, and then by the next call.

        Args:
            must: Whether it is an OSError when all tries have failed, and not a warning.
        """
        if self._place is None:
            return
        place, remedy = self._place, 'start the same command again'
        if self._member is None:
            (self.path / UNSENT).touch()
            if not (failure := _tries(place.send)):
                (self.path / UNSENT).unlink()
                return
            failure += f' What was to be sent is kept in {self.path}'
        else:
            failure = self._member.decide(
                _tries(place.send_parts), lambda all_: max(all_) or _tries(place.send)
            )
            if not failure:
                return
            failure += f' What was not sent is lost with {self.path}'
            remedy += ', which goes on from what was sent'
        if must:
            raise OSError(f'{failure}: {remedy}.')
        logging.warning('%s, and the next checkpoint tries again.', failure)


def _tries(send: Callable[[], None]) -> str:
    """Sends, some times if need be; returns what went wrong, or ''."""
    failure = ''
    for pause in (0.0, *PAUSES):
        time.sleep(pause)
        try:
            send()
            return ''
        except OSError as error:
            failure = str(error)
    return failure
