"""Real training runs in processes of their own, on small Chinese rows."""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

import programs

ROOT = Path(__file__).resolve().parents[2]
RECIPE = 'tests/support/recipes/tiny.py'


def make_data(folder: Path) -> list[str]:
    """Two files of rows and a tokenizer; returns the flags that name them."""
    rng = np.random.default_rng(0)
    letters = list('天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏')
    for name, count in (('a', 90), ('b', 50)):
        rows = []
        for _ in range(count):
            question = ''.join(rng.choice(letters, rng.integers(2, 6)))
            rows.append({'instruction': f'倒写{question}', 'input': '', 'output': question[::-1]})
        text = ''.join(json.dumps(r, ensure_ascii=False) + '\n' for r in rows)
        (folder / f'{name}.jsonl').write_text(text, 'utf-8')
    make_tokenizer(folder / 'tokenizer', [*letters, '倒', '写'])
    return [
        f'--config.data.path={folder}/a.jsonl=1.5,{folder}/b.jsonl=0.5',
        f'--config.data.tokenizer={folder}/tokenizer',
        f'--config.data.cache_dir={folder}/cache',
    ]


def configured(folder: Path, variant: str = 'llama') -> Any:
    """The tiny recipe over what `make_data` makes, for runs in this process."""
    from recipes import tiny

    made: Any = tiny.get_config(variant)
    for flag in make_data(folder):
        name, _, value = flag.removeprefix('--config.data.').partition('=')
        made.data[name] = value
    return made


def make_tokenizer(folder: Path, characters: list[str]) -> None:
    """A byte-level BPE whose merges are the given characters, as a Hugging Face directory."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=['<s>', '</s>', '<pad>'],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*characters * 5, 'Human: \n\nAssistant:'] * 3, trainer)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / 'tokenizer.json'))
    settings = {'bos_token': '<s>', 'eos_token': '</s>', 'pad_token': '<pad>'}
    (folder / 'tokenizer_config.json').write_text(json.dumps(settings))


def start(
    workdir: Path, flags: list[str], variant: str = 'llama', file_limit: int | None = None
) -> programs.Program:
    """Starts `python -m belle_jax.train`; what it prints goes to WORKDIR.log.

    Args:
        workdir: The run directory.
        flags: After --config and --workdir.
        variant: Of the recipe.
        file_limit: Bytes that any file may grow to, as on a disk that is full.
    """
    command = [sys.executable, '-m', 'belle_jax.train', f'--config={RECIPE}:{variant}']
    return programs.Program(
        [*command, f'--workdir={workdir}', *flags],
        cwd=ROOT,
        env=os.environ | {'JAX_PLATFORMS': 'cpu', 'PYTHONPATH': str(ROOT)},
        stdout=workdir.with_suffix('.log'),
        file_limit=file_limit,
    )


def finish(process: programs.Program, workdir: Path) -> None:
    """Waits for a run and asserts that it ended well."""
    assert process.wait(timeout=600) == 0, workdir.with_suffix('.log').read_text()[-3000:]


def train(workdir: Path, flags: list[str], variant: str = 'llama') -> None:
    """A whole run."""
    finish(start(workdir, flags, variant), workdir)


def kill_when(process: programs.Program, condition, timeout: float = 300.0) -> None:
    """kill -9 as soon as `condition()` holds."""
    end = time.monotonic() + timeout
    while not condition():
        assert process.poll() is None, 'the run ended before it could be killed'
        assert time.monotonic() < end, 'the moment to kill never came'
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()


def steps_done(workdir: Path) -> int:
    """Steps that metrics.jsonl tells of."""
    path = workdir / 'metrics' / 'metrics.jsonl'
    return len(path.read_text().splitlines()) if path.exists() else 0


def losses(workdir: Path) -> list[float]:
    """The loss of every step, in order, each once."""
    lines = (workdir / 'metrics' / 'metrics.jsonl').read_text().splitlines()
    records = [json.loads(line) for line in lines]
    records = [r for r in records if 'loss' in r]
    assert [r['step'] for r in records] == list(range(1, len(records) + 1))
    return [r['loss'] for r in records]


def parameters(workdir: Path) -> dict[str, np.ndarray]:
    """The newest checkpoint's parameters."""
    from belle_jax.runs.parameters import Arrays
    from belle_jax.runs.run_directory import open_checkpoint

    arrays = Arrays(open_checkpoint(workdir))
    return {name: arrays.read(name, ()) for name in arrays.shapes}
