"""Shows that one version of the programs gives what another gave, to the last bit.

    python tests/identity.py make before.json --checkout=../before
    python tests/identity.py make after.json
    python tests/identity.py compare before.json after.json
    python tests/identity.py continue --before=../before --after=.

`make` copies the packages of a checkout and runs its programs as a person does, on small inputs
that it makes itself, the same each time: the quickstart (shortened), training of both families on
one device and on 2 x 2 x 2, sampling, every converter there and back, and generate_data against
the tests' server. It records losses, answers, rows, and the SHA-256 of every file. `compare` prints
for each part whether it is identical, or its first difference. `continue` has one version begin a
training run and a journal, and the other finish them; what comes out must be what the first gives
without interruption. Digests depend on the machine: both versions are to run on the same one.

Model cards stand in a part of their own, without the line that names the version.
"""

import argparse
import contextlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE / 'support')]

import versions  # noqa: E402 (found as a program too)
from versions import Version  # noqa: E402


def make(output: Path, checkout: Path, python: str, steps: int) -> int:
    """Records what a version gives; returns the exit code."""
    with _work() as work:
        flags = versions.make_inputs(work)
        parts: dict[str, Any] = {'inputs': versions.digests(work)}
        version = Version(checkout, python, work)
        parts['quickstart'] = versions.quickstart(version, steps)
        for family in ('llama', 'bloom'):
            parts[f'training {family}'] = versions.training(version, flags, family)
        files = versions.conversions(version, work)
        cards = {name: files.pop(name) for name in list(files) if name.endswith('README.md')}
        parts |= {'conversions': files, 'model cards': cards}
        for kind in versions.KINDS:
            parts[f'generate_data {kind}'] = versions.generated(version, kind, kind)
        parts['generate_data convert and dedupe'] = versions.rewritten(version)
    output.write_text(json.dumps(parts, ensure_ascii=False, indent=1) + '\n', 'utf-8')
    print(f'What {checkout} gives is in {output}')
    return 0


def compare(before: dict[str, Any], after: dict[str, Any]) -> int:
    """Prints a line for each part; returns 1 if any differs."""
    different = False
    for part in dict.fromkeys([*before, *after]):
        said = _difference(before.get(part), after.get(part))
        different |= bool(said)
        size = len(before.get(part) or ())
        print(f'{part:34} {size:4} results   {said or "identical"}')
    return int(different)


def _difference(before: Any, after: Any) -> str:
    """Where two results differ first, and how; empty if they do not."""
    if before == after:
        return ''
    if isinstance(before, dict) and isinstance(after, dict):
        name = next(k for k in [*before, *after] if before.get(k) != after.get(k))
        return f'{name}: {_difference(before.get(name), after.get(name))}'
    if isinstance(before, list) and isinstance(after, list):
        pairs: list[Any] = list(zip(before, after))
        at = next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
        if at < len(pairs):
            return f'[{at}] {_difference(*pairs[at])}'
        return f'{len(before)} and {len(after)} of them'
    return f'{str(before)[:60]!r} before, {str(after)[:60]!r} after'


def finish(before: Path, after: Path, python: str) -> int:
    """One version begins and the other finishes; returns 1 if that shows."""
    results: list[dict[str, Any]] = [{}, {}]
    with _work() as work:
        flags = versions.make_inputs(work)
        old, new = (Version(checkout, python, work) for checkout in (before, after))
        for family, more in (('llama', []), ('bloom', versions.MESH)):
            versions.train(old, f'{family}_whole', flags, family, *more)
            versions.train(
                old, f'{family}_halves', flags, family, *more, '--config.train.max_steps=10'
            )
            versions.train(new, f'{family}_halves', flags, family, *more)
            for result, kind, version in ((results[0], 'whole', old), (results[1], 'halves', new)):
                run, export = work / f'{family}_{kind}', work / kind / 'export' / family
                version.run('convert.to_hf', f'--source={run}', f'--target={export}')
                files = versions.digests(export)
                files.pop('README.md')  # names the run
                result[f'training run, {family}'] = files | {'losses': versions.losses(run)}
        results[0]['journal'] = versions.generated(old, 'self_instruct', 'whole')
        versions.generated(old, 'self_instruct', 'halves', 20)
        results[1]['journal'] = versions.generated(new, 'self_instruct', 'halves')
    return compare(*results)


@contextlib.contextmanager
def _work():
    """A folder that is the same for every version, as paths may go into results."""
    path = Path(tempfile.gettempdir()) / 'belle-jax-identity'
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    yield path
    shutil.rmtree(path)


def main() -> int:
    """Reads the command line and does it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest='command', required=True)
    folder: Callable[..., Any] = Path
    one = commands.add_parser('make', help='records what a version gives')
    one.add_argument('output', type=folder, help='JSON file to write')
    one.add_argument('--checkout', type=folder, default=HERE.parent, help='of the version')
    one.add_argument('--steps', type=int, default=60, help='of the quickstart; it has 1,200 itself')
    two = commands.add_parser('compare', help='compares two files of make')
    two.add_argument('files', type=folder, nargs=2)
    three = commands.add_parser('continue', help='has one version finish what another began')
    three.add_argument('--before', type=folder, required=True, help='checkout that begins')
    three.add_argument('--after', type=folder, default=HERE.parent, help='checkout that finishes')
    for command in (one, three):
        command.add_argument('--python', default=sys.executable, help='interpreter (default: this)')
    given = parser.parse_args()
    if given.command == 'make':
        return make(given.output, given.checkout, given.python, given.steps)
    if given.command == 'compare':
        return compare(*(json.loads(path.read_text('utf-8')) for path in given.files))
    return finish(given.before, given.after, given.python)


if __name__ == '__main__':
    sys.exit(main())
