"""The programs: what they say of a mistake, and where they leave what they made."""

import os

import pytest

import programs
import vocabulary_models


@pytest.fixture(scope='module')
def work(tmp_path_factory, shared):
    folder = tmp_path_factory.mktemp('programs')
    vocabulary_models.small_llama(folder / 'model', shared)
    (folder / 'text.txt').write_text('盖闻天地之数，有十二万九千六百岁为一元。\n' * 9, 'utf-8')
    return folder


def run(work, name, *flags):
    command = ['python', '-m', f'convert.{name}', '--model=model', *flags]
    done = programs.run(command, cwd=work, env=os.environ, timeout=120)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ('name', 'flags', 'sentence'),
    [
        ('extend_vocab', '', '--add=TOKENIZER or --train=FILES'),
        ('extend_vocab', '--add=model --kind=bpe', '--kind does nothing with --add'),
        ('extend_vocab', '--add=text.txt', 'text.txt is not a SentencePiece model'),
        ('prune_vocab', '', '--corpus is missing'),
        ('prune_vocab', '--corpus=none.txt', 'none.txt is not a file here'),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_1(work, name, flags, sentence):
    code, said, reason = run(work, name, '--target=out', *flags.split())
    assert (code, said) == (1, '') and sentence in reason and reason.count('\n') == 1
    assert not (work / 'out').exists()


def test_the_last_line_names_the_target(work):
    code, said, _ = run(work, 'prune_vocab', '--corpus=text.txt', '--target=small')
    assert code == 0 and said.splitlines()[-1] == 'small'
    assert (work / 'small' / 'vocabulary.json').is_file()
