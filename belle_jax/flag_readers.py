"""Flags that were given and that nothing reads, which are refused.

A program with several actions has one table of what each of them reads; whatever stands in no table
is read by all.
"""

from collections.abc import Iterable, Mapping

from absl import flags


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
