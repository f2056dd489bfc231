"""Imports run one way: rooms know what is below them, and nothing above.

Read from the source of every file, with the imports inside functions and those for types alone.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# From the foundations up. A room imports what stands before its own line, and of its own line what
# does not lead back to it.
FLOORS = (
    'declaration disk signals progress',
    'files json_files storage',
    'families',
    'config',
    'sharding cluster',
    'models data api',
    'weights texts pages',
    'runs formats diffs vocabularies',
    'decoding',
    'quantization',
    'training',
    'judging synthesis serving planning',
    'cli flag_readers server_flags cluster_flags',
    'train sample serve evaluate generate_data plan quickstart convert configs',
    'public __init__',
)
FLOOR = {room: number for number, line in enumerate(FLOORS) for room in line.split()}
PROGRAMS = {*FLOORS[-2].split(), 'cli', 'server_flags', 'cluster_flags'} - {'configs'}
WITHOUT_JAX = 'families data api weights texts formats diffs vocabularies synthesis judging'.split()
# What JAX calls by the name of a mesh axis, beside sharding.py's own words for it.
BY_AXIS = (
    'PartitionSpec|shard_map|make_mesh|psum|pmean|pmax|pmin|psum_scatter|all_gather|all_to_all|'
    'ppermute|pshuffle|axis_index|axis_size'
)


def modules(root: Path, *folders: str) -> dict[str, Path]:
    """The Python files of folders, by the name that an import gives them."""
    found = {}
    for folder in folders or ('belle_jax', 'convert', 'configs'):
        for path in sorted((root / folder).rglob('*.py')):
            found['.'.join(path.relative_to(root).with_suffix('').parts)] = path
    return {name.removesuffix('.__init__'): path for name, path in found.items()}


def imports(name: str, path: Path, known: dict[str, Path]) -> Iterator[tuple[str, ast.alias, int]]:
    """What of ours a file imports: the module, how it is written, and the line."""
    package = name if path.name == '__init__.py' else name.rpartition('.')[0]
    for node in ast.walk(ast.parse(path.read_text('utf-8'))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in known:
                    yield alias.name, alias, node.lineno
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ''
            if node.level:
                above = package.split('.')[: len(package.split('.')) - node.level + 1]
                base = '.'.join([*above, *filter(None, [base])])
            for alias in node.names:
                if (base, alias.name) == ('belle_jax', '__version__'):
                    continue
                module = f'{base}.{alias.name}'
                if module in known or base in known:
                    yield (module if module in known else base), alias, node.lineno


def room(module: str) -> str:
    """The part of the house that a module belongs to."""
    first, *rest = module.split('.')
    return first if first != 'belle_jax' else (rest or ['__init__'])[0]


def arrows_up(root: Path) -> list[str]:
    """Every import of a room from one that stands above it."""
    known = modules(root)
    return [
        f'{path.relative_to(root)}:{line} imports {module}'
        for name, path in known.items()
        for module, _, line in imports(name, path, known)
        if FLOOR[room(module)] > FLOOR[room(name)] and room(name) != '__init__'
    ]


def circle(graph: dict[str, set[str]]) -> list[str]:
    """A way through the graph that ends where it began, or nothing."""
    done: set[str] = set()

    def look(node: str, way: list[str]) -> list[str]:
        if node in way:
            return [*way[way.index(node) :], node]
        if node in done:
            return []
        for following in sorted(graph[node]):
            if found := look(following, [*way, node]):
                return found
        done.add(node)
        return []

    return next((found for node in graph if (found := look(node, []))), [])


def graphs(root: Path) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Which module imports which, and which room which other."""
    known = modules(root)
    by_module = {
        name: {module for module, _, _ in imports(name, path, known)}
        for name, path in known.items()
    }
    by_room: dict[str, set[str]] = {room(name): set() for name in known}
    for name, others in by_module.items():
        by_room[room(name)] |= {room(other) for other in others} - {room(name)}
    return by_module, by_room


def test_every_room_has_its_floor():
    assert {room(name) for name in modules(ROOT)} <= FLOOR.keys()


def test_no_room_imports_one_that_stands_above_it():
    assert not arrows_up(ROOT)


@pytest.mark.parametrize('kind', ['modules', 'rooms'])
def test_imports_run_in_no_circle(kind):
    by_module, by_room = graphs(ROOT)
    assert not circle(by_module if kind == 'modules' else by_room)


def test_an_arrow_that_is_turned_around_is_found(tmp_path):
    """The same checks of a house of two rooms, with and without an arrow up."""
    files = {
        'training/step.py': 'from belle_jax.models import ops',
        'models/__init__.py': '',
        'models/ops.py': 'def project():\n    from belle_jax.models import layers',
        'models/layers.py': 'import belle_jax.files',
        'files.py': '',
    }
    for name, text in files.items():
        (tmp_path / 'belle_jax' / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / 'belle_jax' / name).write_text(text)
    assert not arrows_up(tmp_path)
    assert not any(map(circle, graphs(tmp_path)))
    (tmp_path / 'belle_jax/models/layers.py').write_text(
        'def f():\n    from ..training import step'
    )
    assert arrows_up(tmp_path) == ['belle_jax/models/layers.py:2 imports belle_jax.training.step']
    by_module, by_room = graphs(tmp_path)
    assert set(circle(by_room)) == {'training', 'models'}
    assert set(circle(by_module)) == {f'belle_jax.{m}' for m in (
        'training.step', 'models.ops', 'models.layers')}  # fmt: skip


def test_only_programs_define_flags():
    guilty = [
        f'{path.relative_to(ROOT)}:{node.lineno}'
        for name, path in modules(ROOT).items()
        for node in ast.walk(ast.parse(path.read_text('utf-8')))
        if isinstance(node, ast.Attribute | ast.Name | ast.alias)
        and re.match(
            'DEFINE_', getattr(node, 'attr', getattr(node, 'id', getattr(node, 'name', '')))
        )
        and room(name) not in PROGRAMS
    ]
    assert not guilty


def test_only_sharding_names_a_mesh_axis():
    """Elsewhere no text is an axis that has no other meaning, and nothing of JAX is called by one.

    'data' means a section of the configuration as well, so it cannot be looked for by its text:
    what it could be given to is. A GPU kernel's axes are those of its own grid.
    """
    guilty = []
    for name, path in modules(ROOT).items():
        if name in ('belle_jax.sharding', 'belle_jax.models.packed_mosaic'):
            continue
        for node in ast.walk(ast.parse(path.read_text('utf-8'))):
            if isinstance(node, ast.Constant) and node.value in ('fsdp', 'tensor'):
                guilty.append(f'{path.relative_to(ROOT)}:{node.lineno} {node.value!r}')
            elif isinstance(node, ast.ImportFrom) and (node.module or '').split('.')[0] == 'jax':
                names = [alias.name for alias in node.names if re.fullmatch(BY_AXIS, alias.name)]
                guilty += [f'{path.relative_to(ROOT)}:{node.lineno} {name}' for name in names]
            elif isinstance(node, ast.Attribute) and re.fullmatch(BY_AXIS, node.attr):
                used = ast.unparse(node)
                if not used.startswith('sharding.'):
                    guilty.append(f'{path.relative_to(ROOT)}:{node.lineno} {used}')
    assert not guilty


def test_no_module_of_ours_is_imported_under_another_name():
    known = modules(ROOT, 'belle_jax', 'convert', 'configs', 'benchmarks')
    readers = known | modules(ROOT, 'tests')
    guilty = [
        f'{path.relative_to(ROOT)}:{line} {module} as {alias.asname}'
        for name, path in readers.items()
        for module, alias, line in imports(name, path, known)
        if alias.asname and alias.name.split('.')[-1] == module.split('.')[-1]
    ]
    assert not guilty


def test_a_recipe_imports_nothing_but_the_configuration():
    known = modules(ROOT)
    recipes = {name: path for name, path in known.items() if name.startswith('configs.')}
    assert {
        module for name, path in recipes.items() for module, _, _ in imports(name, path, known)
    } == {'belle_jax.config'}


LOOK = """
import importlib, sys, traceback

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == 'jax':
            ours = [f for f in traceback.extract_stack() if '/belle_jax/' in f.filename]
            print(*(f'{f.filename}:{f.lineno}' for f in ours), sep=' -> ')
        return None

sys.meta_path.insert(0, Watch())
for name in sys.argv[1:]:
    importlib.import_module(name)
"""


def test_rooms_that_need_no_jax_do_not_import_it():
    names = [name for name in modules(ROOT, 'belle_jax') if room(name) in WITHOUT_JAX]
    assert len(names) > 80 and 'belle_jax.data' in names
    names = [name for name in names if not name.endswith('__main__')]
    done = subprocess.run(
        [sys.executable, '-c', LOOK, 'belle_jax', *names],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert not done.stdout
