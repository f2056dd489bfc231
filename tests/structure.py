"""Prints the shape of the house: rooms, sizes, names, and how far a reader has to walk.

    python tests/structure.py --checkout=../before

Works on any version, to compare two. A walk is a real small run of a program; what is counted are
the modules of the package whose functions run in it (importing a module does not count). Three are
walked: one row -> gradient (belle_jax.train), one tensor of a `.bin` -> parameter -> export
(convert.from_hf, convert.to_hf), one seed task -> row (belle_jax.generate_data).
"""

import argparse
import ast
import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE / 'support')]

import training_runs  # noqa: E402 (found as a program too)
from api_runs import ServerProcess, environment  # noqa: E402

PACKAGES = ('belle_jax', 'convert', 'configs')
LONGEST_FUNCTION, LONGEST_FILE = 60, 300
# What a program's run passes through beside the walk itself, by the module's name in any version:
# its shell and its progress; and what it tells and keeps of the run as a whole.
SHELL = 'cli|command|train|generate_data|from_hf|to_hf|progress|live'
BESIDE = {
    'one row -> gradient': f'{SHELL}|account|metrics|checkpoints?|manifest|run_directory|origin',
    'one tensor of a .bin -> parameter -> export': f'{SHELL}|model_card',
    'one seed -> row': rf'{SHELL}|report\w*|charts|statistics|verbs|page\w*',
}
SHORT = (50, 80)


# ─── what stands in the files ─────────────────────────────────────────────────────────────────────


def files(checkout: Path) -> dict[str, str]:
    """The text of every Python file of the packages, by its path."""
    paths = sorted(path for name in PACKAGES for path in (checkout / name).rglob('*.py'))
    return {str(path.relative_to(checkout)): path.read_text('utf-8') for path in paths}


def rooms(texts: dict[str, str]) -> Counter[str]:
    """Lines of each folder; what stands in no folder of the package counts as its programs."""
    lines: Counter[str] = Counter()
    for path, text in texts.items():
        parts = path.split('/')
        lines['/'.join(parts[:2]) if len(parts) > 2 else parts[0]] += len(text.splitlines())
    return lines


def long_functions(texts: dict[str, str]) -> list[str]:
    """Functions over 60 lines, with their lengths."""
    found = []
    for path, text in texts.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                size = (node.end_lineno or 0) - node.lineno + 1
                if size > LONGEST_FUNCTION:
                    found.append(f'{path}: {node.name} {size}')
    return found


def classes(texts: dict[str, str]) -> dict[str, list[str]]:
    """Names of classes that stand in several modules of belle_jax, and in which."""
    found: dict[str, list[str]] = {}
    for path, text in texts.items():
        if path.startswith('belle_jax/'):
            for node in ast.parse(text).body:
                if isinstance(node, ast.ClassDef):
                    found.setdefault(node.name, []).append(path)
    return {name: paths for name, paths in sorted(found.items()) if len(paths) > 1}


def report_files(checkout: Path) -> None:
    """Prints what can be read from the files."""
    texts = files(checkout)
    sizes = {path: len(text.splitlines()) for path, text in texts.items()}
    for room, lines in sorted(rooms(texts).items()):
        print(f'{lines:7,}  {room}')
    print(f'{sum(sizes.values()):7,}  lines of {", ".join(PACKAGES)}\n')
    modules = {path: size for path, size in sizes.items() if not path.endswith('__init__.py')}
    for limit in SHORT:
        print(f'{sum(size < limit for size in modules.values()):7}  modules under {limit} lines')
    for title, found in (
        (
            f'files over {LONGEST_FILE} lines',
            [f'{p} {n}' for p, n in sizes.items() if n > LONGEST_FILE],
        ),
        (f'functions over {LONGEST_FUNCTION} lines', long_functions(texts)),
        (
            'class names that occur twice',
            [f'{name}: {", ".join(paths)}' for name, paths in classes(texts).items()],
        ),
    ):
        print(f'{len(found):7}  {title}')
        for line in found:
            print(f'{"":11}{line}')


# ─── walks ────────────────────────────────────────────────────────────────────────────────────────


def walk(checkout: Path, python: str, file: str, program: str, *flags: str) -> list[str]:
    """The modules that a program's run passes through, in a process of its own."""
    command = [python, str(HERE / 'support' / 'walked.py'), str(checkout), file, program, *flags]
    home = environment() | {'PYTHONPATH': str(checkout)}
    done = subprocess.run(command, cwd=checkout, env=home, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f'{program}: {done.stderr[-3000:]}')
    return json.loads(done.stdout.splitlines()[-1])


def walks(checkout: Path, python: str, work: Path) -> dict[str, list[str]]:
    """The modules of the three walks.

    Args:
        checkout: Of the version.
        python: Interpreter with the dependencies.
        work: An empty folder.
    """
    data = training_runs.make_data(work)
    recipe = f'--config={HERE}/support/recipes/tiny.py'
    run, small = f'{work}/run', ['--config.train.steps=1', '--config.train.checkpoint_every=-1']
    gradient = walk(
        checkout, python, 'a.jsonl', 'belle_jax.train', recipe, f'--workdir={run}', *data, *small
    )

    published, again = f'--target={work}/published', f'{work}/again'
    walk(checkout, python, '', 'convert.to_hf', f'--source={run}', published, '--format=bin')
    source = f'--source={work}/published'
    tensor = walk(
        checkout, python, 'pytorch_model.bin', 'convert.from_hf', source, f'--target={again}'
    )
    tensor += walk(
        checkout, python, '', 'convert.to_hf', f'--source={again}', f'--target={work}/exported'
    )

    with ServerProcess(work / 'log') as server:
        flags = [f'--output={work}/rows.json', '--count=12', f'--base_url={server.url}']
        row = walk(checkout, python, 'seeds.jsonl', 'belle_jax.generate_data', *flags)
    return dict(zip(BESIDE, (gradient, list(dict.fromkeys(tensor)), row), strict=True))


def main() -> int:
    """Prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--checkout', type=Path, default=HERE.parent, help='of the version')
    parser.add_argument('--python', default=sys.executable, help='interpreter (default: this)')
    given = parser.parse_args()
    checkout = given.checkout.resolve()
    report_files(checkout)
    with tempfile.TemporaryDirectory() as work:
        for name, modules in walks(checkout, given.python, Path(work)).items():
            beside = [m for m in modules if re.fullmatch(BESIDE[name], Path(m).stem)]
            print(f'\n{len(modules) - len(beside):7}  modules on the walk: {name}')
            for module in modules:
                if module not in beside:
                    print(f'{"":11}{module}')
            print(f'{len(beside):11}  beside it: {", ".join(beside)}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
