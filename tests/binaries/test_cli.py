"""The command belle-jax: its map, its names, and what it says when a name is wrong."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from belle_jax import cli

ROOT = Path(__file__).resolve().parents[2]


def belle_jax(monkeypatch, *words):
    """Calls the command in this process."""
    monkeypatch.setattr(sys, 'argv', ['belle-jax', *words])
    cli.main()


def test_the_map_has_every_program_converter_and_recipe(monkeypatch, capsys):
    belle_jax(monkeypatch, '--help')
    shown = {line.split()[0] for line in capsys.readouterr().out.splitlines() if line[:2] == '  '}
    programs = {p for p in (ROOT / 'belle_jax').rglob('*.py') if '\n    cli.run(' in p.read_text()}
    expected = {p.parent.name if p.stem == '__main__' else p.stem for p in programs}
    for folder in ('convert', 'configs'):
        expected |= {p.stem for p in (ROOT / folder).glob('[a-z]*.py')}
    assert shown == expected and len(expected) > 15
    belle_jax(monkeypatch)
    assert 'generate_data' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('words', 'sentence'),
    [
        (['trian'], "'trian' is not a program; did you mean train?"),
        (['convert', 'xro'], "'xro' is not a converter; did you mean xor?"),
        (['completion', 'fish'], 'completion bash|zsh'),
    ],
)
def test_an_unknown_name_is_a_sentence_with_the_nearest(monkeypatch, capsys, words, sentence):
    monkeypatch.setattr(sys.modules['__main__'], '__spec__', None)  # as in a script of the wheel
    with pytest.raises(SystemExit) as ended:
        belle_jax(monkeypatch, *words)
    said = capsys.readouterr()
    assert ended.value.code == 1 and not said.out
    assert said.err.startswith('belle-jax: ') and sentence in said.err
    assert said.err.count('\n') == 1


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        (['--config.optim.lr=1'], 'lr is not a field of a recipe; did you mean --config.optim.lea'),
        (['--config.optm.learning_rate=1'], 'did you mean --config.optim.learning_rate? Beside'),
        (
            ['--config.model.architecture.layer=1'],
            'did you mean --config.model.architecture.layers?',
        ),
        (['--config.batch.size=abc'], "invalid literal for int() with base 10: 'abc'. See python"),
        (['--wrkdir=x'], '--wrkdir is not a flag; did you mean --workdir?'),
        (['--config=configs/nope.py'], '--config=configs/nope.py is not a file'),
        (['--config=sft_lama'], '--config=sft_lama is not a recipe; did you mean sft_llama?'),
        (['--config=sft_llama:9b'], "variant '9b' is not one of 7b"),
        (['--workdir='], '--workdir is missing. The run directory'),
    ],
)
def test_what_is_wrong_on_the_command_line_is_said_in_our_words(words, said):
    program = [sys.executable, '-m', 'belle_jax.train', '--config=sft_llama', '--workdir=x']
    done = subprocess.run([*program, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and said in done.stderr, done.stderr
    assert done.stderr.startswith('belle_jax.train: ') and done.stderr.count('\n') == 1


@pytest.mark.parametrize('word', ['-h', '--help', '--version'])
def test_help_and_version_are_no_mistake(word):
    command = [sys.executable, '-m', 'convert.to_hf', word]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr
    assert ('--source' in done.stdout) if word != '--version' else 'convert.to_hf' in done.stdout


def test_a_recipe_is_found_by_its_name_unless_a_file_is_meant(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    file = ROOT / 'configs' / 'sft_bloom.py'
    assert cli.recipe('sft_bloom:560m') == f'{file}:560m'
    (tmp_path / 'mine.py').write_text('')
    assert cli.recipe('mine.py:560m') == 'mine.py:560m'
    (tmp_path / 'sft_bloom').write_text('')
    assert cli.recipe('sft_bloom:560m') == 'sft_bloom:560m'
    with pytest.raises(ValueError, match=r'sft_blom is not a recipe; did you mean sft_bloom\?'):
        cli.recipe('sft_blom:560m')


@pytest.mark.parametrize(
    ('line', 'expected'),
    [
        ('belle-jax con', 'convert'),
        ('belle-jax convert from_', 'from_hf from_meta from_paddle'),
        ('belle-jax train --config = sft_', 'sft_bloom sft_llama'),
        (
            'belle-jax train --config =',
            'full_or_lora pretrain quickstart sft_bloom sft_llama zh_small',
        ),
    ],
)
def test_bash_completes_names(monkeypatch, capsys, line, expected):
    belle_jax(monkeypatch, 'completion', 'bash')
    script = capsys.readouterr().out
    ask = f'COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _belle_jax'
    code = f'{script}\n{ask}\necho "${{COMPREPLY[@]}}"'
    done = subprocess.run(['bash', '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == expected.split()


def test_a_converter_runs_by_name_in_the_repository_and_without_jax(tmp_path):
    code = (
        'import sys; from belle_jax import cli; sys.argv[1:] = ["convert", "catalogue"]; '
        'cli.main(); sys.exit("jax" in sys.modules)'
    )
    environment = {'PYTHONPATH': str(ROOT)}
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout in (ROOT / 'docs' / 'belle.md').read_text('utf-8')


def test_the_packages_of_the_wheel_are_the_folders():
    settings = tomllib.loads((ROOT / 'pyproject.toml').read_text('utf-8'))['tool']['setuptools']
    folders = {p.parent.relative_to(ROOT) for p in (ROOT / 'belle_jax').rglob('__init__.py')}
    packages = {'.'.join(folder.parts) for folder in folders}
    assert set(settings['packages']) == packages | set(settings['package-dir'])


def test_numbers_that_are_none_and_too_little_memory_are_sentences(tmp_path):
    for program, flags, sentence in (
        ('belle_jax.generate_data', ['--temperature=nan'], '--temperature=nan must be a finite'),
        ('belle_jax.generate_data', ['--top_p=2'], '--top_p=2.0 is a fraction'),
        ('-c', [], 'there is too little memory for this'),
    ):
        code = 'from belle_jax import cli\ndef main(): raise MemoryError\ncli.run(main)'
        words = ['-c', code] if program == '-c' else ['-m', program, *flags]
        command = [sys.executable, *words]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 1 and sentence in done.stderr, done.stderr
        assert 'Traceback' not in done.stderr


def test_that_nobody_reads_on_is_no_error():
    code = 'import sys; from belle_jax import cli; sys.argv[1:] = ["--help"]; cli.main()'
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, stdout=writer, stderr=-1, text=True
    )
    os.close(writer)
    assert done.stderr == ''


def test_ctrl_c_while_xla_compiles_is_the_sentence_and_nothing_else(tmp_path):
    program = tmp_path / 'compiling.py'
    program.write_text("""
import os, signal, threading, jax, jax.numpy as jnp
from belle_jax import cli

def main():
    def slow(x):
        for i in range(200):
            x = jnp.sort(jnp.sin(x) * i, axis=0)
        return x
    lowered = jax.jit(slow).lower(jnp.ones((64, 64)))
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    lowered.compile()
    return 'compiled before it was interrupted'

cli.run(main)
""")
    options = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'text': True, 'cwd': ROOT}
    command = [sys.executable, program]
    environment = os.environ | {'PYTHONPATH': str(ROOT), 'JAX_ENABLE_COMPILATION_CACHE': '0'}
    # What follows Ctrl-C is a race of threads, which one process in two lost once.
    started = [subprocess.Popen(command, env=environment, **options) for _ in range(3)]
    for process in started:
        assert process.communicate() == (
            '',
            'belle-jax: interrupted; nothing is left half written.\n',
        )
        assert process.returncode == 1
