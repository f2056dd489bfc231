"""Runs a program and tells which modules of it have functions that run:

    python tests/support/walked.py CHECKOUT FILE PROGRAM FLAGS…

from the moment when it opens FILE, which holds what the walk follows. The last line of the output is
their paths, as JSON, in the order in which they are met. Nothing of this project is imported here:
the program's own version is the one that CHECKOUT holds.
"""

import inspect
import json
import runpy
import sys
import threading
from pathlib import Path


class Walk:
    """Notes which modules of a checkout have functions that run.

    Attributes:
        modules: Their paths, in the order in which they are met.
    """

    def __init__(self, checkout: Path, file: str) -> None:
        """Notes nothing before the file is opened."""
        self.begun = False
        self._file = file
        sys.addaudithook(self._opened)
        self._roots = tuple(f'{checkout / name}/' for name in ('belle_jax', 'convert'))
        self._home = len(str(checkout)) + 1
        self.modules: dict[str, None] = {}

    def _opened(self, event: str, arguments: tuple) -> None:
        if event == 'open' and str(arguments[0]).endswith(self._file):
            self.begun = True

    def note(self, frame, event: str, _) -> None:
        """What sys.setprofile calls."""
        code = frame.f_code
        path = code.co_filename
        if (
            not self.begun
            or event != 'call'
            or not path.startswith(self._roots)
            or not _is_function(code)
        ):
            return
        name = path[self._home :]
        if name not in self.modules and not self._importing(frame.f_back):
            self.modules[name] = None

    def _importing(self, frame) -> bool:
        """Whether a module of ours is being imported: its decorators and tables do not count."""
        while frame is not None:
            if frame.f_code.co_name == '<module>' and frame.f_globals['__name__'] != '__main__':
                return True
            frame = frame.f_back
        return False


def walked(checkout: Path, file: str, program: str, *flags: str) -> dict[str, None]:
    """Runs a program in this process, whose working directory is the checkout; its modules."""
    sys.argv = [program, *flags]
    taken = Walk(checkout, file)
    threading.setprofile(taken.note)
    sys.setprofile(taken.note)
    try:
        runpy.run_module(program, run_name='__main__', alter_sys=True)
    except SystemExit as ended:
        if ended.code:
            raise
    finally:
        sys.setprofile(None)
    return taken.modules


def _is_function(code) -> bool:
    return bool(code.co_flags & inspect.CO_OPTIMIZED)


if __name__ == '__main__':
    sys.path[0] = sys.argv[1]
    met = walked(Path(sys.argv[1]), *sys.argv[2:])
    print('\n' + json.dumps(list(met)))
