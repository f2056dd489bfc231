"""Everything that writes, killed anywhere, and started again: what is left, and what is different.

A program is killed before its n-th step on the disk (a file opened to write, a rename, a removal, a
lock, a sync, …), n drawn from all that an undisturbed run takes, or after a random time, for what C
libraries write. Then the same command is given again. Counted are commands that fail then, results
that are not the undisturbed run's, and files left over.

    PYTHONPATH=.:tests/support python tests/support/kills.py 500
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import random
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import judge_replies
import programs
from generate_runs import serving

ROOT = Path(__file__).resolve().parents[2]
STEPS = {'open', 'fcntl.flock', 'sync'} | {
    f'os.{name}' for name in ('rename', 'mkdir', 'remove', 'rmdir', 'truncate', 'chmod', 'utime')
}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
TIMED = 0.25  # of the kills come after a random time
# What differs from run to run, be it disturbed or not: the names of some files, what is in others.
NAMED = re.compile(r'.*/(events\.out\..*|checkpoints/\d+/.*|.*\.sqlite-(wal|shm))')
FILLED = re.compile(
    r'.*/(metrics\.jsonl|loss\.png|\d+\.manifest\.json|.*\.sqlite|.*\.report\.html|'
    r'quantization_report\.(json|html))'
)


def arm(folder: str, steps: str, at: int) -> None:
    """In the program: notes each step in the file `steps`; kills the process before the `at`-th."""
    noted, sync, done = os.open(steps, os.O_CREAT | os.O_TRUNC | os.O_WRONLY), os.fsync, 0

    def step(event: str, arguments: tuple) -> None:
        nonlocal done
        if event not in STEPS:
            return
        if event == 'open' and not (isinstance(arguments[2], int) and arguments[2] & WRITES):
            return
        place = arguments[0]
        place = os.fsdecode(place) if isinstance(place, str | bytes) else ''
        if os.path.isabs(place) and not place.startswith(folder):
            return
        done += 1
        os.write(noted, b'.')
        if done == at:
            os.kill(os.getpid(), signal.SIGKILL)

    def counted(descriptor: Any) -> None:
        step('sync', (descriptor,))
        sync(descriptor)

    os.fsync = counted
    sys.addaudithook(step)


@dataclasses.dataclass
class Trial:
    """A program that is killed.

    Attributes:
        name: In the table.
        words: Module and flags; paths are relative to the working directory.
        made: What it makes there; only that is compared.
        inputs: Makes what it reads there.
        read: What of the result is compared beside the files, such as a model's numbers.
    """

    name: str
    words: str
    made: tuple[str, ...]
    inputs: Callable[[Path], object]
    read: Callable[[Path], Any] = lambda folder: None


@dataclasses.dataclass
class Tally:
    """What came of some kills."""

    kills: int = 0
    failed: int = 0
    different: int = 0
    left: int = 0
    told: list[str] = dataclasses.field(default_factory=list)


def run(trial: Trial, base: Path, kills: int, seed: int = 0, state: Path | None = None) -> Tally:
    """Kills a program so many times.

    Args:
        trial: What is killed.
        base: A folder to work in.
        kills: In all, with those of earlier runs.
        seed: Of the moments.
        state: A file of JSON lines, to which each finished round is added; rounds that are in it
            are not done again.
    """
    done = (
        [json.loads(line) for line in state.read_text().splitlines()]
        if state and state.exists()
        else []
    )
    tally = Tally()
    for values in done:
        _add(tally, Tally(**values))
    if tally.kills >= kills:
        return tally
    inputs, work = base / 'inputs', base / 'work'
    inputs.mkdir(parents=True)
    trial.inputs(inputs)
    for path in inputs.rglob('*'):
        os.utime(path, (1e9, 1e9))
    _renew(inputs, work)
    # The first program waits until the libraries are loaded, which is not its own time.
    programs.run(['python', '-m', 'keyword'], cwd=base, env=os.environ, timeout=300)
    began = time.monotonic()
    code, steps = _start(trial, base, 0)
    seconds = time.monotonic() - began
    assert code == 0, (base / 'log').read_text()[-3000:]
    expected, names = _result(trial, work), _names(work)
    assert not [name for name in names if '/.' in f'/{name}'], names
    while tally.kills < kills:
        chance = random.Random(f'{trial.name} {seed} {len(done)}')
        _renew(inputs, work)
        found, left = Tally(), min(kills - tally.kills, chance.randint(1, 3))
        for _ in range(left):
            timed = chance.random() < TIMED
            at = 0 if timed else chance.randint(1, steps)
            code, _ = _start(trial, base, at, chance.uniform(0, seconds) if timed else None)
            found.kills += code == -signal.SIGKILL
            if code != -signal.SIGKILL:
                break
        moment = f'{trial.name}, round {len(done)}'
        # What was complete when it was killed need not be made again, and may refuse to be.
        if code != 0 and not (_names(work) == names and _result(trial, work) == expected):
            code, _ = _start(trial, base, 0)
            if code:
                found.failed += 1
                found.told.append(f'{moment}: {(base / "log").read_text()[-300:]}')
        if not found.failed and _result(trial, work) != expected:
            found.different += 1
            found.told.append(f'{moment}: another result')
        if more := _names(work) - names:
            found.left += len(more)
            found.told.append(f'{moment}: left {sorted(more)[:5]}')
        done.append(dataclasses.asdict(found))
        _add(tally, found)
        if state:
            state.parent.mkdir(parents=True, exist_ok=True)
            with state.open('a') as file:
                file.write(json.dumps(done[-1]) + '\n')
    return tally


def _start(trial: Trial, base: Path, at: int, seconds: float | None = None) -> tuple[int, int]:
    """Runs the program, killed before step `at` or after some seconds; its code and its steps."""
    (base / 'log').unlink(missing_ok=True)
    work = base / 'work'
    program = programs.Program(
        ['python', '-m', *trial.words.format(root=ROOT).split()],
        cwd=work,
        env=os.environ | {'JAX_PLATFORMS': 'cpu', 'OPENAI_API_KEY': 'sk-test'},
        stdout=base / 'log',
        armed=(str(work), str(base / 'steps'), at),
    )
    if seconds is not None:
        with contextlib.suppress(programs.subprocess.TimeoutExpired):
            program.wait(seconds)
        program.kill()
    return program.wait(timeout=300), (base / 'steps').stat().st_size


def _add(tally: Tally, more: Tally) -> None:
    for name, value in vars(more).items():
        setattr(tally, name, getattr(tally, name) + value)


def _renew(inputs: Path, work: Path) -> None:
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(inputs, work)


def _names(work: Path) -> set[str]:
    paths = {path.relative_to(work).as_posix() for path in work.rglob('*')}
    return {name for name in paths if '/.' in f'/{name}' or not NAMED.fullmatch(f'/{name}')}


def _result(trial: Trial, work: Path) -> Any:
    """The contents of what was made."""
    roots = [work / name for name in trial.made]
    files = [file for root in roots for file in (root.rglob('*') if root.is_dir() else [root])]
    names = {f'/{file.relative_to(work).as_posix()}': file for file in files if file.is_file()}
    digests = {
        name: hashlib.sha256(file.read_bytes()).hexdigest()
        for name, file in names.items()
        if not NAMED.fullmatch(name) and not FILLED.fullmatch(name)
    }
    try:
        return digests, trial.read(work)
    except Exception as error:  # not there, or half
        return digests, repr(error)


# --- the programs ---------------------------------------------------------------------------------


def trials(url: str) -> list[Trial]:
    """All of them; `url` is that of a server for those that need one."""
    generate = 'belle_jax.generate_data --output=rows.json --count=40 --api=chat --model_name=test'
    return [
        Trial(
            'training',
            'belle_jax.train --config={root}/tests/support/recipes/tiny.py --workdir=run '
            '--config.data.path=a.jsonl --config.data.tokenizer=tokenizer '
            '--config.data.cache_dir=cache --config.train.steps=8 '
            '--config.train.checkpoint_every=2 --config.train.keep_last=1',
            ('cache', 'run'),
            _data,
            _trained,
        ),
        Trial('token cache', 'killed_parts cache', ('cache',), _data),
        Trial('quickstart: its files', 'killed_parts quickstart', ('runs',), lambda folder: None),
        Trial('convert.from_hf', _converted('from_hf'), ('target',), _hf, _parameters),
        Trial('convert.to_hf', _converted('to_hf', '--max_shard_size=100KB'), ('target',), _run),
        Trial('convert.to_hf, .bin', _converted('to_hf', '--format=bin'), ('target',), _run),
        Trial('convert.from_meta', _converted('from_meta'), ('target',), _meta),
        Trial('convert.to_meta', _converted('to_meta', '--shards=2'), ('target',), _meta_hf),
        Trial('convert.to_paddle', _converted('to_paddle'), ('target',), _meta_hf),
        Trial('convert.from_paddle', _converted('from_paddle'), ('target',), _paddle),
        Trial(
            'convert.gptq',
            'convert.gptq --model=source --target=target --calibration=text.txt --samples=4 '
            '--seq_len=32 --group_size=32 --bits=3 --table_bits=8',
            ('target',),
            _calibrated,
        ),
        Trial(
            'convert.extend_vocab',
            'convert.extend_vocab --model=source --target=target --train=text.txt --size=300',
            ('target',),
            _calibrated,
        ),
        Trial(
            'convert.prune_vocab',
            'convert.prune_vocab --model=source --target=target --corpus=text.txt',
            ('target',),
            _calibrated,
        ),
        Trial(
            'convert.adapter from_peft',
            'convert.adapter from_peft --source=adapter --target=target',
            ('target',),
            _adapter,
            _parameters,
        ),
        Trial(
            'convert.adapter merge',
            'convert.adapter merge --source=adapter --target=target',
            ('target',),
            _adapter,
        ),
        Trial(
            'training adapters',
            'belle_jax.train --config={root}/tests/support/recipes/adapted.py --workdir=run '
            '--config.data.path=a.jsonl --config.data.cache_dir=cache --config.train.steps=8 '
            '--config.train.checkpoint_every=2 --config.train.keep_last=1',
            ('cache', 'run'),
            _based,
            _trained,
        ),
        Trial('convert.xor encrypt', f'convert.xor encrypt {_XOR}', ('target',), _plain),
        Trial('convert.xor decrypt', f'convert.xor decrypt {_XOR}', ('target',), _encrypted),
        Trial(
            'convert.delta make',
            'convert.delta make --base=base --tuned=tuned --target=target',
            ('target',),
            _two,
        ),
        Trial(
            'convert.delta apply',
            'convert.delta apply --base=base --delta=delta --target=target',
            ('target',),
            _delta,
        ),
        Trial(
            'generate_data',
            f'{generate} --base_url={url}',
            _ROWS,
            lambda folder: None,
        ),
        Trial(
            'generate_data --rebuild',
            f'{generate} --rebuild --threshold=0.6',
            _ROWS,
            lambda folder: _generated(folder, f'{generate} --base_url={url}'),
        ),
        Trial(
            'generate_data dedupe',
            'belle_jax.generate_data dedupe --rows=a.jsonl,a.jsonl --output=clean.json',
            ('clean.json', 'clean.removed.jsonl'),
            _data,
        ),
        Trial(
            'generate_data convert',
            'belle_jax.generate_data convert --rows=a.jsonl --output=b.json --layout=belle '
            '--overwrite',
            ('b.json',),
            _data,
        ),
        Trial(
            'generate_data review --apply',
            'belle_jax.generate_data review --rows=a.jsonl --apply --output=b.jsonl --overwrite',
            ('b.jsonl',),
            _reviewed,
        ),
        Trial(
            'evaluate run',
            'belle_jax.evaluate run --questions=q.jsonl --answers=a.jsonl --prompts=p.jsonl '
            f'--judge=test --judgings=2 --output=eval --base_url={url}',
            ('eval',),
            _asked,
        ),
        Trial(
            'evaluate answer, of a server',
            'belle_jax.evaluate answer --questions=q.jsonl --model=test --output=eval '
            f'--model_url={url}',
            ('eval',),
            _asked,
        ),
        Trial(
            'sample --prompts',
            'belle_jax.sample --model=source --prompts=prompts.jsonl --output=answers.jsonl '
            '--max_new_tokens=4 --batch_size=2',
            ('answers.jsonl', 'answers.jsonl.settings.json'),
            _prompts,
        ),
    ]


_XOR = '--source=source --key=key --target=target'
_ROWS = ('rows.json', 'rows.rejected.jsonl')


def _converted(name: str, more: str = '') -> str:
    return f'convert.{name} --source=source --target=target {more}'


def _data(folder: Path) -> None:
    import training_runs

    training_runs.make_data(folder)


def _trained(folder: Path) -> Any:
    import training_runs

    run = folder / 'run'
    return training_runs.losses(run), _digests(training_runs.parameters(run))


def _parameters(folder: Path) -> Any:
    import training_runs

    return _digests(training_runs.parameters(folder / 'target'))


def _digests(arrays: Any) -> dict[str, str]:
    return {name: hashlib.sha256(a.tobytes()).hexdigest() for name, a in arrays.items()}


def _hf(folder: Path) -> None:
    import tiny

    tiny.write_model(folder / 'source')


def _based(folder: Path) -> None:
    _hf(folder)
    _data(folder)


def _adapter(folder: Path) -> None:
    import tiny

    _hf(folder)
    tiny.write_adapter(folder / 'adapter', folder / 'source')


def _calibrated(folder: Path) -> None:
    _hf(folder)
    (folder / 'text.txt').write_text('so far so good, so well so near. ' * 40)


def _run(folder: Path) -> None:
    from belle_jax.runs import conversion

    _hf(folder)
    (folder / 'source').rename(folder / 'published')
    conversion.from_published(str(folder / 'published'), folder / 'source')


def _meta(folder: Path) -> None:
    import as_meta

    as_meta.llama2(folder / 'source')


def _meta_hf(folder: Path) -> None:
    import as_meta

    as_meta.from_meta(as_meta.llama2(folder / 'meta'), folder / 'source')


def _paddle(folder: Path) -> None:
    from belle_jax.formats import huggingface, paddle

    _meta_hf(folder)
    (folder / 'source').rename(folder / 'published')
    paddle.write(huggingface.open(folder / 'published'), folder / 'source')


def _plain(folder: Path) -> None:
    chance = random.Random(0)
    (folder / 'key').write_bytes(chance.randbytes(100_000))
    (folder / 'source').mkdir()
    for name in ('a.dat', 'b.dat', 'c.dat'):
        (folder / 'source' / name).write_bytes(chance.randbytes(50_000))


def _encrypted(folder: Path) -> None:
    from belle_jax.diffs import xor

    _plain(folder)
    (folder / 'source').rename(folder / 'plain')
    xor.encrypt(folder / 'plain', folder / 'key', folder / 'source')


def _two(folder: Path) -> None:
    import tiny

    tiny.write_model(folder / 'base')
    tiny.write_model(folder / 'tuned', seed=1)


def _delta(folder: Path) -> None:
    from belle_jax.diffs import delta

    _two(folder)
    delta.make(str(folder / 'base'), str(folder / 'tuned'), folder / 'delta')


def _asked(folder: Path) -> None:
    """Questions, answers to them, and a judge's prompts."""
    rows = [(f'{n}加{n}是多少？', f'{2 * n}', ('math', 'code')[n % 2]) for n in range(30)]
    for name, made in (
        ('q.jsonl', [dict(zip(('question', 'std_answer', 'class'), row)) for row in rows]),
        ('a.jsonl', [{'input': row[0], 'output': row[1]} for row in rows]),
        ('p.jsonl', [{'class': kind, 'prompt': '请按"得分:"打分。'} for kind in ('math', 'code')]),
    ):
        text = ''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in made)
        (folder / name).write_text(text, 'utf-8')


def _generated(folder: Path, words: str) -> None:
    said = programs.run(
        ['python', '-m', *words.split()],
        cwd=folder,
        env=os.environ | {'OPENAI_API_KEY': 'sk-test'},
        timeout=60,
    )
    assert said.returncode == 0, said.stderr


def _reviewed(folder: Path) -> None:
    from belle_jax.synthesis.decisions import Decision, DecisionLog, Names

    _data(folder)
    rows, names = (folder / 'a.jsonl').read_text('utf-8').splitlines(), Names()
    with DecisionLog(folder / 'a.review.jsonl') as log:
        for number, line in enumerate(rows):
            log.add(Decision(names.row(json.loads(line)), 'keep' if number % 3 else 'drop'))


def _prompts(folder: Path) -> None:
    _hf(folder)
    lines = [json.dumps({'prompt': f'{n} + 1 = ?'}) + '\n' for n in range(5)]
    (folder / 'prompts.jsonl').write_text(''.join(lines))


def state_of(name: str) -> Path:
    """Where the kills of a program are kept, until a line of the project changes."""
    sources = sorted([*ROOT.glob('belle_jax/**/*.py'), *ROOT.glob('convert/*.py')])
    version = hashlib.sha256(b''.join(path.read_bytes() for path in sources)).hexdigest()[:12]
    return ROOT / '.pytest_cache' / 'kills' / version / f'{name.replace(" ", "_")}.jsonl'


def table(tallies: dict[str, Tally]) -> str:
    """For the page."""
    total = Tally()
    for tally in tallies.values():
        _add(total, tally)
    rows = [
        '| program | kills | failed restarts | other results | left over |',
        '|---|--:|--:|--:|--:|',
    ]
    for name, t in (*tallies.items(), ('**all**', total)):
        rows.append(f'| {name} | {t.kills} | {t.failed} | {t.different} | {t.left} |')
    return '\n'.join([*rows, *total.told])


if __name__ == '__main__':
    import tempfile

    with tempfile.TemporaryDirectory() as work, serving(content=judge_replies.either) as server:
        every = {trial.name: trial for trial in trials(server.url)}
        each, only = -(-int(sys.argv[1]) // len(sys.argv[2:] or every)), sys.argv[2:]
        tallies = {}
        for number, (name, trial) in enumerate(every.items()):
            if not only or name in only:
                began = time.monotonic()
                tallies[name] = run(trial, Path(work) / str(number), each, state=state_of(name))
                print(f'{name}: {tallies[name]}, {time.monotonic() - began:.0f} s', flush=True)
        print(table(tallies))
