"""The wheel in an environment of its own: every program runs in an empty directory."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from api_runs import ServerProcess
from belle_jax import cli

ROOT = Path(__file__).resolve().parents[2]
PIP = [sys.executable, '-m', 'pip', '--disable-pip-version-check', '--quiet']
SHORT = ('--config.train.steps=2', '--config.data.cache_dir=cache')
pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """The wheel, built from a copy: building leaves files in the source."""
    source = tmp_path_factory.mktemp('source')
    for name in ('belle_jax', 'convert', 'configs'):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns('__pycache__'))
    for name in ('pyproject.toml', 'README.md', 'LICENSE'):
        shutil.copyfile(ROOT / name, source / name)
    flags = ['--no-deps', '--no-build-isolation', '--no-index', '--wheel-dir=wheels']
    subprocess.run([*PIP, 'wheel', *flags, '.'], cwd=source, check=True)
    return next((source / 'wheels').glob('*.whl'))


@pytest.fixture(scope='module')
def command(wheel, tmp_path_factory):
    """The command belle-jax, in an environment that has the wheel and what it depends on."""
    home = tmp_path_factory.mktemp('environment')
    venv.create(home)
    python = home / 'bin' / 'python'
    install = ['--python', str(python), 'install', '--no-deps', '--no-index', str(wheel)]
    subprocess.run([*PIP, *install], check=True)
    # The .pth files in a folder that a .pth file names are not read: no editable Belle-JAX.
    packages = next(home.glob('lib/python*/site-packages'))
    (packages / 'dependencies.pth').write_text(sysconfig.get_path('purelib'))
    return home / 'bin' / 'belle-jax'


def start(command, words, folder, **more):
    """Runs belle-jax in a folder, and returns what it did."""
    environment = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    return subprocess.run(
        [command, *words.split()],
        cwd=folder,
        env=environment | {'JAX_PLATFORMS': 'cpu', **more},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def succeed(command, words, folder, **more):
    """As `start`, asserting that it ended well."""
    done = start(command, words, folder, **more)
    assert done.returncode == 0, f'{words}\n{done.stdout[-1000:]}\n{done.stderr[-2000:]}'
    return done.stdout


def test_the_wheel_holds_every_file_of_the_package_and_nothing_beside_it(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {name.split('/')[0] for name in names} == {'belle_jax', f'{wheel.name[:15]}.dist-info'}
    for folder, inside in (('belle_jax', '.'), ('convert', 'convert'), ('configs', 'configs')):
        for path in (ROOT / folder).rglob('*'):
            if path.is_file() and '__pycache__' not in path.parts:
                name = Path('belle_jax', inside, path.relative_to(ROOT / folder)).as_posix()
                assert name in names, f'{name} is not in the wheel'


def test_quickstart_training_sampling_and_generated_data_in_an_empty_directory(command, tmp_path):
    packages = next(command.parent.parent.glob('lib/python*/site-packages'))

    def installed():
        return {p for p in packages.rglob('*') if '__pycache__' not in p.parts}

    before = installed()
    shown = succeed(command, 'quickstart --steps=3', tmp_path)
    assert 'its files are in runs/quickstart' in shown and 'all ' in shown
    assert [p.name for p in tmp_path.iterdir()] == ['runs']
    words = ' '.join(['train --config=quickstart --workdir=runs/more', *SHORT])
    assert 'The run is in runs/more' in succeed(command, words, tmp_path)
    (tmp_path / 'questions.jsonl').write_text('{"prompt": "一加一"}\n', 'utf-8')
    words = 'sample --model=runs/more --prompts=questions.jsonl --output=answers.jsonl'
    succeed(command, f'{words} --max_new_tokens=4', tmp_path)
    assert json.loads((tmp_path / 'answers.jsonl').read_text('utf-8'))['input'] == '一加一'
    with ServerProcess(tmp_path / 'server.jsonl') as server:
        words = 'generate_data --output=rows.jsonl --count=3 --api=chat --model_name=test'
        key = {'OPENAI_API_KEY': 'none', 'OPENAI_BASE_URL': server.url}
        succeed(command, words, tmp_path, **key)
    assert len((tmp_path / 'rows.jsonl').read_text('utf-8').splitlines()) == 3
    assert installed() == before


def test_each_converter_converts(command, tmp_path):
    import as_meta

    as_meta.llama2(tmp_path / 'LLaMA', count=1)
    key = '--key=LLaMA/consolidated.00.pth'
    for words in (
        'from_meta --source=LLaMA --target=hf',
        'to_meta --source=hf --target=meta --shards=2',
        'to_paddle --source=hf --target=paddle',
        'from_paddle --source=paddle --target=of-paddle',
        'from_hf --source=hf --target=runs/base --template=belle',
        'to_hf --source=runs/base --target=exported',
        'delta make --base=hf --tuned=exported --target=delta',
        'delta apply --base=hf --delta=delta --target=applied',
        f'xor encrypt --source=hf --target=enc {key}',
        f'xor decrypt --source=enc --target=decrypted {key}',
        'xor verify --source=decrypted',
    ):
        succeed(command, f'convert {words}', tmp_path)
    published = (tmp_path / 'hf' / 'model.safetensors').read_bytes()
    for again in ('of-paddle', 'decrypted'):
        assert (tmp_path / again / 'model.safetensors').read_bytes() == published
    assert (tmp_path / 'meta' / 'consolidated.01.pth').is_file()
    assert 'BelleGroup/BELLE-7B-2M' in succeed(command, 'convert catalogue', tmp_path)


def test_each_program_says_what_it_does_and_a_mistake_is_one_sentence(command, tmp_path):
    programs = [name for names in cli.ROAD.values() for name in names]
    programs += [f'convert {name}' for name in cli.converters()]
    with ThreadPoolExecutor(2) as pool:
        helped = pool.map(lambda p: succeed(command, f'{p} --help', tmp_path), programs)
    for program, text in zip(programs, helped, strict=True):
        assert f'belle-jax {program}' in text, text
    done = start(command, 'convert xor decrypt --source=a --key=b', tmp_path)
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.startswith('belle_jax.convert.xor: --target is missing')
    assert done.stderr.count('\n') == 1 and not list(tmp_path.iterdir())
