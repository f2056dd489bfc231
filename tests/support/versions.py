"""What a version of the programs gives on small inputs, part by part, for `tests/identity.py`.

Programs and files alone are used, as a person does, so that any version can be asked.
"""

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import as_meta
import training_runs
from api_runs import ServerProcess, environment

STEPS = 20
MESH = [f'--config.mesh.{axis}=2' for axis in ('data', 'fsdp', 'tensor')] + ['--cpu_devices=8']
KINDS = ('self_instruct', 'multiturn', 'dialogue', 'math', 'evol', 'label')
RECIPE = '''"""A model of seconds, with no setting at its default that a result depends on."""

from belle_jax import config


def get_config(variant='llama'):
    c = config.default()
    c.model.architecture = {
        'family': variant, 'embed': 32, 'layers': 2, 'q_heads': 4, 'mlp': 128, 'max_position': 64,
        'tied': variant == 'bloom', 'init_std': 0.05, 'norm_eps': 1e-4,
    }
    c.model.update(hidden_dropout=0.1, attention_dropout=0.1)
    c.data.update(template='belle', seq_len=32)
    c.data.validation.count = 10
    c.batch.update(size=8, accumulation=2)
    c.optim.update(learning_rate=3e-3, warmup_steps=5, weight_decay=0.1, beta2=0.97)
    c.train.update(steps=STEPS, log_every=1, eval_every=10, checkpoint_every=10)
    return c
'''


class Version:
    """The programs of a checkout, copied, so that nothing is written there."""

    def __init__(self, checkout: Path, python: str, work: Path) -> None:
        """Copies them.

        Args:
            checkout: A working tree of any version.
            python: The interpreter, with the dependencies installed.
            work: The folder of inputs and results; the copy lies in it, named after the checkout.
        """
        self.python, self.work = python, work
        self.home = work / 'versions' / hashlib.sha256(bytes(checkout.resolve())).hexdigest()[:8]
        for name in ('belle_jax', 'configs', 'convert'):
            shutil.copytree(
                checkout / name, self.home / name, ignore=shutil.ignore_patterns('__pycache__')
            )
        self._environment = environment() | {'PYTHONPATH': '', 'HF_HUB_OFFLINE': '1'}
        self._environment.pop('XLA_FLAGS', None)

    def start(self, program: str, *words: object, **options: Any) -> subprocess.Popen:
        """Starts `python -m PROGRAM WORDS`; what it says on standard error is shown."""
        command = [self.python, '-m', program, *map(str, words)]
        print(f'  {program} {" ".join(map(str, words))[:90]}', file=sys.stderr)
        return subprocess.Popen(
            command, cwd=self.home, env=self._environment, stdout=subprocess.PIPE, **options
        )

    def run(self, program: str, *words: object) -> None:
        """A whole run, which must end well; what it says is told only if it does not."""
        process = self.start(program, *words, stderr=subprocess.STDOUT)
        said = process.communicate()[0].decode()
        if process.returncode:
            sys.exit(f'{program} {" ".join(map(str, words))}\n{said[-3000:]}')


def make_inputs(work: Path) -> list[str]:
    """Writes rows, a tokenizer, a recipe, prompts and Meta's files; returns flags of training."""
    flags = training_runs.make_data(work)
    (work / 'recipe.py').write_text(RECIPE.replace('STEPS', str(STEPS)), 'utf-8')
    rows = [{'prompt': f'倒写{text}'} for text in ('天地玄', '宇宙', '日月盈昃', '寒来')]
    lines = [json.dumps(row, ensure_ascii=False) + '\n' for row in rows]
    (work / 'prompts.jsonl').write_text(''.join(lines), 'utf-8')
    as_meta.llama2(work / 'meta', count=2)
    return flags


# ─── parts: each runs programs and returns what they gave, by name ───────────────────────────────


def quickstart(version: Version, steps: int) -> dict[str, Any]:
    """The quickstart's data and tokenizer, and its recipe for some steps, asked its questions."""
    # It has no shorter form: it is stopped as soon as its data is there, and its commands are run.
    process = version.start('belle_jax.quickstart', start_new_session=True)
    assert process.stdout is not None
    for line in process.stdout:
        if b'belle_jax.train' in line or b'belle-jax train' in line:
            break
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    home, run = version.home / 'runs' / 'quickstart', version.work / 'quickstart'
    shutil.copytree(home, version.work / 'quickstart_data', ignore=lambda *_: ['run'])
    data = version.work / 'quickstart_data'
    recipe = f'--config={version.home}/configs/quickstart.py'
    version.run('belle_jax.train', recipe, f'--workdir={run}', f'--config.train.steps={steps}')
    held_out = [json.loads(line) for line in (data / 'held_out.jsonl').open(encoding='utf-8')]
    rows = [json.dumps({'prompt': row['instruction']}) + '\n' for row in held_out[::9]]
    (data / 'questions.jsonl').write_text(''.join(rows))
    answers = _sample(version, run, data / 'questions.jsonl', '--max_new_tokens=16')
    return digests(data) | {'losses': losses(run), 'answers': answers}


def training(version: Version, flags: list[str], family: str) -> dict[str, Any]:
    """Losses on one device and on 2 x 2 x 2, and sampled and searched answers."""
    result = {}
    for name, more in (('one', []), ('mesh', MESH)):
        train(version, f'{family}_{name}', flags, family, *more)
        result[name] = losses(version.work / f'{family}_{name}')
    run, prompts = version.work / f'{family}_one', version.work / 'prompts.jsonl'
    drawn = ('--temperature=0.9', '--top_p=0.95', '--seed=3', '--max_new_tokens=12')
    result['drawn'] = _sample(version, run, prompts, *drawn)
    result['beams'] = _sample(version, run, prompts, '--num_beams=3', '--max_new_tokens=12')
    return result


def conversions(version: Version, work: Path) -> dict[str, Any]:
    """Digests of every format, there and back."""

    def convert(name: str, source: str, target: str, *more: str) -> None:
        version.run(
            f'convert.{name}', f'--source={work / source}', f'--target={work / target}', *more
        )
        made.append(target)

    made: list[str] = []
    for family in ('llama', 'bloom'):
        convert('to_hf', f'{family}_one', f'{family}_hf')
        convert('to_hf', f'{family}_mesh', f'{family}_bin', '--format=bin', '--dtype=bfloat16')
    convert('to_hf', 'llama_one/checkpoints/10', 'llama_10', '--max_shard_size=40KB')
    convert('from_hf', 'llama_bin', 'llama_again', '--dtype=source', '--template=belle')
    made.remove('llama_again')  # Orbax' own files hold times
    convert('to_hf', 'llama_again', 'llama_back')
    convert('from_meta', 'meta', 'meta_hf')
    convert('to_meta', 'meta_hf', 'meta_again', '--shards=2')
    for name, source in (('llama', 'meta_hf'), ('bloom', 'bloom_hf')):
        convert('to_paddle', source, f'{name}_paddle', '--dtype=float16')
        convert('from_paddle', f'{name}_paddle', f'{name}_paddle_hf')
    key = f'--key={work}/meta/consolidated.00.pth'
    for action, source, target in (
        ('encrypt', 'llama_hf', 'encrypted'),
        ('decrypt', 'encrypted', 'decrypted'),
    ):
        words = (f'--source={work / source}', f'--target={work / target}', key)
        version.run('convert.xor', action, *words)
    for name in ('llama_10', 'llama_hf'):  # a delta holds the small files as well
        (work / name / 'README.md').rename(work / f'{name}.md')
    base, delta = f'--base={work}/llama_10', work / 'delta'
    version.run('convert.delta', 'make', base, f'--tuned={work}/llama_hf', f'--target={delta}')
    version.run('convert.delta', 'apply', base, f'--delta={delta}', f'--target={work}/applied')
    for name in ('llama_10', 'llama_hf'):
        (work / f'{name}.md').rename(work / name / 'README.md')
    result = {}
    for name in (*made, 'encrypted', 'decrypted', 'delta', 'applied'):
        result |= {f'{name}/{file}': digest for file, digest in digests(work / name).items()}
    return result


def generated(version: Version, kind: str, name: str, count: int = 40) -> dict[str, Any]:
    """Rows, rejected rows and journal of one kind."""
    output = version.work / name / 'rows.jsonl'
    output.parent.mkdir(exist_ok=True)
    content = 'api_replies' if kind == 'self_instruct' else 'kind_replies'
    with ServerProcess(output.with_suffix('.log'), f'--content={content}:{kind}') as server:
        flags = [f'--kind={kind}', f'--output={output}', f'--count={count}', '--concurrency=1']
        flags += ['--api=chat', '--model_name=test', f'--base_url={server.url}']
        if kind in ('evol', 'label'):
            flags.append(f'--rows={version.work}/a.jsonl')
        version.run('belle_jax.generate_data', *flags)
    with contextlib.closing(sqlite3.connect(output.with_suffix('.journal.sqlite'))) as db:
        replies = db.execute('SELECT id, key, text, error FROM replies ORDER BY id').fetchall()
    rejected = output.with_suffix('.rejected.jsonl')
    return {
        'rows': output.read_text('utf-8').splitlines(),
        'rejected': rejected.read_text('utf-8').splitlines() if rejected.exists() else None,
        'journal': [list(reply) for reply in replies],
    }


def rewritten(version: Version) -> dict[str, Any]:
    """What generate_data's other two actions make of rows."""
    work = version.work
    rows = f'--rows={work}/self_instruct/rows.jsonl'
    for action, target, more in (
        ('convert', 'messages.json', '--layout=messages'),
        ('dedupe', 'deduped.jsonl', '--threshold=0.4'),
    ):
        output = work / 'rewritten' / target
        version.run('belle_jax.generate_data', action, rows, f'--output={output}', more)
    return digests(work / 'rewritten')


# ─── what the parts share ─────────────────────────────────────────────────────────────────────────


def train(version: Version, name: str, flags: list[str], family: str, *more: str) -> None:
    """Trains, or continues, WORK/NAME."""
    recipe = f'--config={version.work}/recipe.py:{family}'
    version.run('belle_jax.train', recipe, f'--workdir={version.work / name}', *flags, *more)


def losses(run: Path) -> list[list[Any]]:
    """Every loss that was recorded in training and evaluation, with its step."""
    records = map(json.loads, (run / 'metrics' / 'metrics.jsonl').read_text().splitlines())
    kept = ('loss', 'evaluation_loss')
    return [[r['step'], name, r[name]] for r in records for name in kept if name in r]


def _sample(version: Version, run: Path, prompts: Path, *flags: str) -> list[str]:
    output = version.work / 'answers.jsonl'
    version.run(
        'belle_jax.sample', f'--model={run}', f'--prompts={prompts}', f'--output={output}', *flags
    )
    answers = output.read_text('utf-8').splitlines()
    for left in version.work.glob('answers.*'):
        left.unlink()
    return answers


def digests(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file below a folder.

    A model card is taken without the version's line and with its front matter, whose order means
    nothing, sorted.
    """
    result = {}
    for path in sorted(p for p in folder.rglob('*') if p.is_file()):
        content = path.read_bytes()
        if path.name == 'README.md':
            content = re.sub(rb'(?m)^.*Belle-JAX \d.*$', b'', content)
            _, front, body = content.split(b'---\n', 2)
            content = b'\n'.join(sorted(front.splitlines())) + body
        result[str(path.relative_to(folder))] = hashlib.sha256(content).hexdigest()
    return result
