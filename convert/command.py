"""What the programs of this folder share: a flag mistyped or a file damaged is one sentence."""

import sys
from collections.abc import Callable

from absl import app, flags


def run(name: str, work: Callable[[], object], required: tuple[str, ...] = ()) -> None:
    """Parses the flags, works, and prints what comes of it.

    Args:
        name: Of the program, as error messages give it.
        work: Returns what the last line of the output says, or None. Its ValueError or OSError
            ends the program with the sentence and exit code 1.
        required: Flags that must be given.
    """

    def main(argv: list[str]) -> None:
        if len(argv) > 1:
            raise app.UsageError(f'{argv[1]!r} is not a flag: flags are written --name=value.')
        try:
            result = work()
        except (ValueError, OSError) as error:
            sys.exit(f'{name}: {error}')
        except KeyboardInterrupt:
            sys.exit(f'{name}: interrupted; nothing is left half written.')
        if result is not None:
            print(result)

    flags.mark_flags_as_required(list(required))
    app.run(main)
