"""What the programs of this folder share: a flag mistyped or a file damaged is one sentence."""

import sys
from collections.abc import Callable

from absl import app, flags


def run(
    name: str,
    work: Callable[..., object],
    required: tuple[str, ...] = (),
    actions: tuple[str, ...] = (),
) -> None:
    """Parses the flags, works, and prints what comes of it.

    Args:
        name: Of the program, as error messages give it.
        work: Returns what the last line of the output says, or None. Its ValueError or OSError
            ends the program with the sentence and exit code 1.
        required: Flags that must be given.
        actions: Where the program has several, one of them stands on the command line without
            dashes, and work is called with it.
    """

    def main(argv: list[str]) -> None:
        given = argv[1 : 2 if actions else 1]
        if actions and (not given or given[0] not in actions):
            raise app.UsageError(f'say what to do: python -m {name} {"|".join(actions)} --flags')
        if stray := argv[1 + len(given) :]:
            raise app.UsageError(f'{stray[0]!r} is not a flag: flags are written --name=value.')
        try:
            result = work(*given)
        except (ValueError, OSError) as error:
            sys.exit(f'{name}: {error}')
        except KeyboardInterrupt:
            sys.exit(f'{name}: interrupted; nothing is left half written.')
        if result is not None:
            print(result)

    flags.mark_flags_as_required(list(required))
    app.run(main)
