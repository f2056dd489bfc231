"""The shell of every program, and the one command that starts any of them: belle-jax NAME.

A program is a module that defines flags and ends with `cli.run(main)`. `belle-jax train` is
`python -m belle_jax.train` by another name, and works wherever the package is installed.
"""

import ast
import contextlib
import os
import re
import runpy
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from absl import app, flags, logging

from belle_jax import __version__, disk, signals
from belle_jax.flag_readers import closest, fetch_places, require_fields, require_finite

# The map, in the order of the road from nothing to a model that is passed on.
ROAD = {
    'Start': ('quickstart',),
    'Make data': ('generate_data',),
    'Train': ('plan', 'train'),
    'Talk': ('sample',),
    'Measure': ('evaluate',),
}
PROGRAMS = (*(name for names in ROAD.values() for name in names), 'convert', 'completion')
HERE = Path(__file__).parent
IN_RECIPES = (AttributeError, ImportError, LookupError, OSError, TypeError, ValueError)
HELP = ('--help', '-h', 'help')
# Bash takes --config=NAME for three words.
COMPLETION = """\
_belle_jax() {{
  local words='' word="${{COMP_WORDS[COMP_CWORD]#=}}"
  case "${{COMP_WORDS[*]:1:COMP_CWORD-1}}" in
    '') words='{programs}' ;;
    convert) words='{converters}' ;;
    *--config | *'--config =') words='{recipes}' ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _belle_jax belle-jax"""


def run(
    main: Callable[..., object],
    *,
    required: Sequence[str] = (),
    actions: Sequence[str] | None = (),
    stopped: str = 'interrupted; nothing is left half written.',
    stopped_code: int = 1,
) -> None:
    """Runs the program that this process was started for.

    A person's mistake ends it with one sentence on standard error and exit code 1.

    Args:
        main: Does it. An int that it returns is the exit code; anything else but None is printed.
            The text of its ValueError or OSError is the sentence.
        required: Flags that must be given.
        actions: Where the program has several, one of them stands on the command line without
            dashes, and `main` is called with it. None: `main` judges what stands there.
        stopped: What is said after Ctrl-C, SIGTERM or SIGHUP.
        stopped_code: The exit code then.
    """

    def guarded(argv: list[str]) -> None:
        if not flags.FLAGS['verbosity'].present:  # libraries tell of each file and each request
            logging.set_verbosity(logging.WARNING)
        try:
            words = _words(argv[1:], actions)
            for flag in (flags.FLAGS[name] for name in required):
                if flag.value in (None, ''):
                    raise ValueError(
                        f'--{flag.name} is missing. {flag.help} See python -m {program()} --help.'
                    )
            require_finite()
            fetch_places()
            with signals.heeding(signals.interrupt):
                result = main(*words)
        except BrokenPipeError:
            raise  # see `_unhandled`
        except ValueError as error:
            fail(error)
        except OSError as error:
            fail(disk.sentence(error))
        except MemoryError:
            fail('there is too little memory for this: free some, or take a larger machine.')
        except KeyboardInterrupt:
            _stop(stopped, stopped_code)
        if isinstance(result, int):
            sys.exit(result)
        if result is not None:
            print(result)

    app.run(guarded, flags_parser=_parse)


def _unhandled(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Ctrl-C while the modules of a program are loaded is no error of theirs, nor is it that
    nobody reads on, as behind `| head`."""
    if issubclass(kind, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what is still to be flushed
    elif issubclass(kind, KeyboardInterrupt):
        print(f'{program()}: stopped before it began.', file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


sys.excepthook = _unhandled


def fail(sentence: object, code: int = 1) -> NoReturn:
    """Ends the program with a sentence, on one line."""
    print(f'{program()}: {" ".join(str(sentence).split())}', file=sys.stderr)
    sys.exit(code)


def _stop(sentence: str, code: int) -> NoReturn:
    """As `fail`, but at once where JAX is in use.

    Ctrl-C leaves a compilation running in a thread of XLA's, which Python's end would pull the
    client from under: a segmentation fault. All that is ours was closed on the way here.
    """
    if 'jax' not in sys.modules:
        fail(sentence, code)
    print(f'{program()}: {sentence}', file=sys.stderr, flush=True)
    with contextlib.suppress(OSError):  # nobody reads on
        sys.stdout.flush()
    os._exit(code)


def program() -> str:
    """The program that runs, as `python -m` takes it: belle_jax.train, convert.xor."""
    spec = sys.modules['__main__'].__spec__
    return spec.name.removesuffix('.__main__') if spec else 'belle-jax'


def recipe(text: str) -> str:
    """The file of a recipe that --config names.

    Args:
        text: 'sft_bloom:7b1', or a file such as 'mine/sft.py:7b1', which stays as it is.
    Returns:
        '/…/configs/sft_bloom.py:7b1'.
    Raises:
        ValueError: it is neither a file nor the name of a recipe.
    """
    word, colon, variant = text.partition(':')
    if Path(word).is_file():
        return text
    if word not in (known := recipes()):
        what = 'a recipe' if word.isidentifier() else 'a file'
        raise ValueError(
            f'--config={word} is not {what}{_nearest(Path(word).stem, known)} The recipes are '
            f'{", ".join(known)}; the name of a file ends in .py.'
        )
    return f'{_folder("configs") / word}.py{colon}{variant}'


def recipes() -> list[str]:
    """The names of the recipes that come along."""
    return sorted(path.stem for path in _folder('configs').glob('[a-z]*.py'))


def converters() -> list[str]:
    """The names of the programs that convert."""
    return sorted(path.stem for path in _folder('convert').glob('[a-z]*.py'))


def main() -> None:
    """The command belle-jax: starts a program, or prints the map."""
    word, *rest = sys.argv[1:] or HELP
    if word in HELP:
        print(_map(), flush=True)
    elif word == '--version':
        print(f'belle-jax {__version__}')
    elif word == 'completion':
        print(_completion(rest))
    elif word not in PROGRAMS:
        fail(f'{word!r} is not a program{_nearest(word, PROGRAMS)} See belle-jax --help.')
    elif word != 'convert':
        _start(f'belle_jax.{word}', rest)
    elif not rest or rest[0] in HELP:
        listed = _lines('convert', converters())
        print('\n'.join(['belle-jax convert NAME --flags\n', *listed]), flush=True)
    elif rest[0] not in converters():
        near = _nearest(rest[0], converters())
        fail(f'{rest[0]!r} is not a converter{near} See belle-jax convert --help.')
    else:
        _start(f'{_package()}.{rest[0]}', rest[1:])


def _package() -> str:
    """What the package of the converters is called: in an installation it is inside of ours."""
    if _folder('convert').parent == HERE:
        return 'belle_jax.convert'
    sys.path.insert(0, str(HERE.parent))
    return 'convert'


def _folder(name: str) -> Path:
    """The folder of the converters or recipes; in the repository it stands beside the package."""
    inside = HERE / name
    return inside if inside.is_dir() else HERE.parent / name


def _start(module: str, words: Sequence[str]) -> None:
    """Runs a module as `python -m` does."""
    sys.argv[1:] = words
    runpy.run_module(module, run_name='__main__', alter_sys=True)


def _map() -> str:
    """One line for each program, in the order of the road."""
    lines = ['belle-jax NAME --flags     (belle-jax NAME --help: what it does, and its flags)']
    for title, names in ROAD.items():
        lines += [f'\n{title}', *_lines('', names)]
    lines += ['\nConvert (belle-jax convert NAME)', *_lines('convert', converters())]
    lines += ['\nRecipes (belle-jax train --config=NAME)', *_lines('configs', recipes())]
    return '\n'.join([*lines, '\nNames are completed after:  eval "$(belle-jax completion bash)"'])


def _lines(folder: str, names: Iterable[str]) -> list[str]:
    """What modules are, by the first lines of their docstrings; nothing is imported."""
    lines = []
    for word in names:
        path = (_folder(folder) if folder else HERE) / word
        source = path / '__main__.py' if path.is_dir() else path.with_suffix('.py')
        doc = ast.get_docstring(ast.parse(source.read_text('utf-8'))) or ''
        lines.append(f'  {word:<14} {doc.splitlines()[0]}')
    return lines


def _completion(shell: list[str]) -> str:
    """What a shell is to evaluate so that it completes our names."""
    if shell not in (['bash'], ['zsh']):
        fail('say for which shell: belle-jax completion bash|zsh')
    lists = {'programs': PROGRAMS, 'converters': converters(), 'recipes': recipes()}
    script = COMPLETION.format(**{key: ' '.join(names) for key, names in lists.items()})
    start = 'autoload -Uz compinit bashcompinit && compinit && bashcompinit\n'
    return (start if shell == ['zsh'] else '') + script


def _nearest(word: str, known: Iterable[str], dashes: str = '') -> str:
    """The end of a sentence about an unknown name."""
    close = closest(word, known)
    return f'; did you mean {dashes}{close}?' if close else '.'


def _words(words: list[str], actions: Sequence[str] | None) -> list[str]:
    """What stands on the command line without dashes: an action, where there are any."""
    if actions is None:
        return words
    if actions and (not words or words[0] not in actions):
        raise ValueError(f'say what to do: python -m {program()} {"|".join(actions)} --flags')
    if stray := words[1 if actions else 0 :]:
        raise ValueError(f'{stray[0]!r} is not a flag: flags are written --name=value.')
    return words


def _parse(argv: list[str]) -> list[str]:
    """Reads the flags; one that does not exist, or a recipe's field, is a sentence as well."""
    try:
        for place, word in enumerate(argv):
            if word == '-h':
                argv[place] = '--help'
            elif word == '--version':
                print(f'{program()} {__version__}')
                sys.exit(0)
            elif word.startswith('--config='):
                argv[place] = f'--config={recipe(word.removeprefix("--config="))}'
            elif place and argv[place - 1] == '--config':
                argv[place] = recipe(word)
        require_fields(argv)
        return flags.FLAGS(argv)
    except SystemExit:  # --help and its like, which absl ends with 1
        sys.exit(0)
    except flags.UnrecognizedFlagError as error:
        near = _nearest(error.flagname, flags.FLAGS, '--')
        fail(f'--{error.flagname} is not a flag{near} See python -m {program()} --help.')
    except flags.IllegalFlagValueError as error:
        name, _, reason = _said(str(error)).removeprefix('flag ').partition(': ')
        fail(f'{name} cannot be taken: {reason}. See python -m {program()} --help.')
    except (flags.Error, *IN_RECIPES) as error:
        fail(_said(str(error.args[0] if error.args else error)))


def _said(text: str) -> str:
    """What happened: absl quotes ml_collections, and holds a recipe's traceback in its error."""
    text = text.replace('\\n', ' ').replace("\\'", '')
    if text[:1] == text[-1:] and text[:1] in ('"', "'"):
        text = text[1:-1]
    raised = re.findall(r'^\w+Error: (.*)$', text, re.MULTILINE)
    return raised[-1] if raised else text
