"""Damaged and hostile inputs: what the project reads, what is done to it, and what comes of that.

A specimen is a small input of one kind with what reads it; a case is a specimen with one of its
files damaged, by a seeded generator or by hand. Each case runs in a forked child with little
memory and time, in which no code of the file may run, and has one outcome.
"""

import contextlib
import gzip
import hashlib
import io
import itertools
import json
import os
import random
import resource
import select
import shutil
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from belle_jax.api import Journal, Reply, Request
from belle_jax.data import template_process, templates, token_cache, tokenizer
from belle_jax.data.record_reader import RecordReader
from belle_jax.decoding import prompt_file
from belle_jax.diffs import delta, xor
from belle_jax.formats import gptq, huggingface, meta, paddle, peft
from belle_jax.runs import model_card, parameters, run_directory
from belle_jax.synthesis.kinds.base import PROMPTS
from belle_jax.synthesis.kinds.dialogue import Dialogue
from belle_jax.synthesis.settings import Settings
from belle_jax.synthesis.sources import OWN_SEEDS, read_categories, read_objects, read_seeds
from belle_jax.weights.tensors import Stored, proven

ROOT = Path(__file__).resolve().parents[2]
COUNT = 600
SECONDS, MEMORY = 20, 1 << 30  # of a case; bytes beyond what its process began with
RIGHT, REFUSED, BLIND = 'right', 'refused', 'nobody could tell'
TRACEBACK, UNBOUNDED, WRONG, RAN = 'traceback', 'unbounded', 'wrong without a word', 'code was run'
BAD = (TRACEBACK, UNBOUNDED, WRONG, RAN)
# What no reader can tell: bytes without a checksum in their format, where the damage leaves others
# that are as valid. A number of another type, or out of its range, is never among them.
UNCHECKED = {
    'numbers of safetensors, PyTorch before 1.6, and Paddle': (
        '.safetensors',
        '.bin0',
        '.pdparams',
    ),
    'settings, vocabularies, templates and rows, which are text': (
        *('.json', '.jinja', '.txt', '.jsonl', '.model', '.gz', '.parquet'),
    ),
}
TEXTS = ('你好，世界！ hello  world\n\n123 a b', '<s> Human: x</s>')
CHAT = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + eos_token }}{% endfor %}"
CHAT += '{% if add_generation_prompt %}assistant: {% endif %}'
TURNS = [{'role': 'user', 'content': 'hi'}, {'role': 'assistant', 'content': 'ho'}]


class Specimen(NamedTuple):
    """One kind of input."""

    read: Callable[[Path], str]  # a digest of all that comes of its directory
    files: tuple[str, ...]  # those that are damaged


class Outcome(NamedTuple):
    """What came of a case, and the sentence or the traceback."""

    kind: str
    said: str = ''


# --- what reads them ------------------------------------------------------------------------------


def digest(*values: Any) -> str:
    return hashlib.sha256(repr(values).encode('utf-8', 'backslashreplace')).hexdigest()


def _tensors(model: Any) -> str:
    with proven(model.stored):
        sums = {
            name: hashlib.sha256(
                t.array.tobytes()
                if isinstance(t, Stored)
                else b''.join(b.tobytes() for b in t.blocks())
            ).hexdigest()
            for name, t in model.tensors.items()
        }
    return digest(model.architecture, sorted(sums.items()))


def _tokens(folder: Path) -> str:
    made = tokenizer.load(folder)
    ids = [made.encode(text, bos=True) for text in TEXTS]
    decoded = [made.decode(one) for one in ids]
    chat = templates.Template('tokenizer', made).encode(TURNS) if made.chat_template else None
    return digest(ids, decoded, made.bos_id, made.eos_id, made.pad_id, chat)


def _rows(folder: Path) -> str:
    (file,) = (p for p in folder.iterdir() if p.name.startswith('rows'))
    return digest(list(RecordReader(str(file))))


def _cache(folder: Path) -> str:
    made = tokenizer.load(folder / 'model')
    template = templates.Template('belle', made)
    found = token_cache.open_source(
        str(folder / 'rows.jsonl'), template, '', 'error', f'{folder}/c'
    )
    account = {k: v for k, v in found.account.items() if k not in ('path', 'describe')}
    arrays = (found.tokens, found.trained, found.bounds, found.trained_count, found.record_hash)
    return digest([a.tolist() for a in arrays], account)


def _run(folder: Path) -> str:
    checkpoint = run_directory.open_checkpoint(folder / 'run')
    saved = parameters.Saved(checkpoint)
    whole = {n: tuple(slice(0, s) for s in shape) for n, shape in saved.shapes.items()}
    sums = [digest(n, saved.read(n, i, np.dtype('f4')).tobytes()) for n, i in whole.items()]
    card = model_card.write(checkpoint, 'float32', '', chat=False)
    # A newer checkpoint that is damaged is passed over, which is said.
    return digest(checkpoint.step if not checkpoint.rejected else 'older', sums, card)


def _adapter(folder: Path) -> str:
    read = peft.open(folder / 'adapter', huggingface.read_architecture(folder / 'base'))
    sums = {name: hashlib.sha256(a.tobytes()).hexdigest() for name, a in read.arrays.items()}
    return digest(read.adapter, sorted(sums.items()))


def _characters(folder: Path) -> str:
    try:
        kind = Dialogue(Settings(characters=read_objects(folder / 'c.jsonl')))
    except ValueError as error:
        raise ValueError(str(error).replace('--characters', 'c.jsonl')) from error
    return digest([kind.prompt(index) for index in range(50)])


def _metrics(folder: Path) -> str:
    records, damaged = run_directory.read_metrics(folder / 'metrics.jsonl')
    if damaged or len(records) < 9:
        raise ValueError(f'{folder / "metrics.jsonl"}: {len(damaged)} lines are put aside')
    return digest(records)


def _journal(folder: Path) -> str:
    with Journal(folder / 'journal.sqlite') as journal:
        replies = list(journal.replies())
        if journal.damaged or len(replies) < 9:
            raise ValueError(f'{journal.path}: {journal.damaged} rows are asked again')
        return digest(replies, journal.settings)


def _xor(folder: Path) -> str:
    shutil.rmtree(folder / 'out', ignore_errors=True)
    with contextlib.redirect_stdout(io.StringIO()):
        xor.decrypt(folder / 'enc', folder / 'key.bin', folder / 'out')
        said = xor.verify(folder / 'plain')
    return digest(_content(folder / 'out'), said.count('agree'))


def _delta(folder: Path) -> str:
    shutil.rmtree(folder / 'out', ignore_errors=True)
    with contextlib.redirect_stdout(io.StringIO()):
        delta.apply(folder / 'base', folder / 'delta', folder / 'out')
    return digest(_content(folder / 'out'))


def _content(folder: Path) -> list[tuple[str, str]]:
    files = (p for p in sorted(folder.rglob('*')) if p.is_file() and p.name != 'xor_manifest.json')
    return [(p.name, hashlib.sha256(p.read_bytes()).hexdigest()) for p in files]


def _model(folder: Path) -> str:
    return _tensors(huggingface.open(folder))


def _quantised(model: Any) -> str:
    return digest(_tensors(model), model.packing)


SPECIMENS = {
    'safetensors': Specimen(_model, ('config.json', 'model.safetensors', 'generation_config.json')),
    'shards': Specimen(_model, ('model.safetensors.index.json', 'model-00002-*')),
    'torch': Specimen(_model, ('pytorch_model.bin',)),
    'legacy': Specimen(_model, ('pytorch_model.bin',)),
    'gptq': Specimen(lambda f: _quantised(gptq.open(f)), ('config.json', 'model.safetensors')),
    'bare': Specimen(lambda f: _quantised(gptq.open(f, f / 'weights.pt')), ('weights.pt',)),
    'peft': Specimen(
        _adapter, ('adapter/adapter_config.json', 'adapter/adapter_model.safetensors')
    ),
    'meta': Specimen(
        lambda f: _tensors(meta.open(f)), ('params.json', 'consolidated.00.pth', 'tokenizer.model')
    ),
    'paddle': Specimen(
        lambda f: _tensors(paddle.open(f)), ('model_config.json', 'model_state.pdparams')
    ),
    'tokenizer': Specimen(
        _tokens,
        ('tokenizer.json', 'tokenizer_config.json', 'special_tokens_map.json')
        + ('added_tokens.json', 'chat_template.jinja'),
    ),
    'sentencepiece': Specimen(_tokens, ('tokenizer.model',)),
    'ranks': Specimen(lambda f: _tensors(meta.open(f)), ('tokenizer.model',)),
    'words': Specimen(_tokens, ('vocab.json', 'merges.txt')),
    'json': Specimen(_rows, ('rows.json',)),
    'jsonl': Specimen(_rows, ('rows.jsonl',)),
    'gzip': Specimen(_rows, ('rows.jsonl.gz',)),
    'parquet': Specimen(_rows, ('rows.parquet',)),
    'prompts': Specimen(
        lambda f: digest([(r.id, r.messages) for r in prompt_file.read_prompts(f / 'p.jsonl')]),
        ('p.jsonl',),
    ),
    'seeds': Specimen(lambda f: digest(list(read_seeds(f / 'seeds.jsonl'))), ('seeds.jsonl',)),
    'categories': Specimen(lambda f: digest(read_categories(f / 'c.json')), ('c.json',)),
    'characters': Specimen(_characters, ('c.jsonl',)),
    'journal': Specimen(_journal, ('journal.sqlite',)),
    'cache': Specimen(
        _cache,
        ('c/*/tokens.bin', 'c/*/trained.bin', 'c/*/meta.json')
        + ('c/*/examples.npz', 'c/*.digest.json'),
    ),
    'run': Specimen(
        _run,
        ('run/config.json', 'run/checkpoints/0.manifest.json', 'run/data.json')
        + ('run/source/origin.json', 'run/checkpoints/0/state/d/*', 'run/checkpoints/0/*/_METADATA')
        + ('run/metrics/metrics.jsonl',),
    ),
    'metrics': Specimen(_metrics, ('metrics.jsonl',)),
    'xor': Specimen(_xor, ('enc/*.enc', 'plain/xor_manifest.json', 'key.bin')),
    'delta': Specimen(_delta, ('delta/delta.json', 'delta/*.zst', 'base/model.safetensors')),
}


# --- specimens ------------------------------------------------------------------------------------


def build(folder: Path) -> None:
    """Makes all specimens, each in a folder of its name; for a child, as it takes JAX and torch."""
    import torch

    import as_gptq
    import as_meta
    import tiny
    from belle_jax.runs import conversion

    tiny.write_model(folder / 'safetensors')
    (folder / 'peft').mkdir()
    shutil.copytree(folder / 'safetensors', folder / 'peft' / 'base')
    tiny.write_adapter(folder / 'peft' / 'adapter', folder / 'peft' / 'base')
    plan = as_gptq.Plan(3, symmetric=False, act_order=True, version=2)
    packed, _ = as_gptq.tensors(as_gptq.LLAMA, plan)
    said = {'quantization_config': as_gptq.settings(plan)}
    as_gptq.write(folder / 'gptq', as_gptq.LLAMA, packed, said)
    as_gptq.belle(folder / 'bare', as_gptq.BLOOM, as_gptq.Plan(**as_gptq.BELLE))
    model = huggingface.open(folder / 'safetensors')
    ids = {'bos_token_id': 1, 'eos_token_id': [2]}
    for name in ('safetensors', 'gptq'):
        (folder / name / 'generation_config.json').write_text(json.dumps(ids))
    huggingface.write(model, folder / 'shards', max_shard_size=20_000)
    huggingface.write(model, folder / 'torch', kind='bin')
    shutil.copytree(folder / 'torch', folder / 'legacy')
    stored = {n: t.array for n, t in model.tensors.items() if isinstance(t, Stored)}
    tensors = {n: torch.from_numpy(np.array(array)) for n, array in stored.items()}
    legacy = folder / 'legacy' / 'pytorch_model.bin'
    torch.save(tensors, legacy, _use_new_zipfile_serialization=False)
    torch.save(tensors, folder / 'torch' / 'pytorch_model.bin')
    as_meta.llama2(folder / 'meta', 1)
    parts = as_meta.cut(as_meta.weights('bfloat16'), 1, 0)
    as_meta.publish(folder / 'ranks', parts, as_meta.LLAMA_3, as_meta.ranks())
    huggingface.write(meta.open(folder / 'meta'), folder / 'plain')
    paddle.write(huggingface.open(folder / 'plain'), folder / 'paddle')
    (folder / 'paddle' / 'config.json').rename(folder / 'paddle' / 'model_config.json')
    _words(folder, model.directory)
    _row_files(folder)
    for name, rows in (
        ('prompts', [{'prompt': f'{i}?', 'id': i} for i in range(9)]),
        ('metrics', [{'step': i, 'time': 1.0, 'loss': 2.0 / i} for i in range(1, 10)]),
    ):
        (folder / name).mkdir()
        file = folder / name / {'prompts': 'p.jsonl', 'metrics': 'metrics.jsonl'}[name]
        file.write_text(''.join(json.dumps(row) + '\n' for row in rows))
    for name, source, file in (
        ('seeds', OWN_SEEDS, 'seeds.jsonl'),
        ('categories', OWN_SEEDS.with_name('categories.json'), 'c.json'),
        ('characters', PROMPTS / 'characters.jsonl', 'c.jsonl'),
    ):
        (folder / name).mkdir()
        shutil.copyfile(source, folder / name / file)
    (folder / 'journal').mkdir()
    with Journal(folder / 'journal' / 'journal.sqlite', {'kind': 'test'}) as journal:
        for i in range(9):
            asked = Request(i, {'messages': [{'role': 'user', 'content': f'{i}'}]})
            journal.put(asked, Reply(i, f'answer {i}', 'stop', 3, 4, 0.5)).result()
    (folder / 'cache').mkdir()
    shutil.copytree(model.directory, folder / 'cache' / 'model')
    shutil.copyfile(folder / 'jsonl' / 'rows.jsonl', folder / 'cache' / 'rows.jsonl')
    os.utime(folder / 'cache' / 'rows.jsonl', (1e9, 1e9))
    _cache(folder / 'cache')
    (folder / 'run').mkdir()
    conversion.from_published(str(model.directory), folder / 'run' / 'run')
    (folder / 'run' / 'run' / 'metrics').mkdir()
    shutil.copyfile(folder / 'metrics/metrics.jsonl', folder / 'run/run/metrics/metrics.jsonl')
    account = {'sources': [{'path': 'a.jsonl', 'rows': 9, 'tokens': 99, 'skipped': {}}]}
    (folder / 'run' / 'run' / 'data.json').write_text(json.dumps(account))
    for name in ('xor', 'delta'):
        (folder / name).mkdir()
    (folder / 'xor' / 'key.bin').write_bytes(legacy.read_bytes())
    shutil.copytree(folder / 'torch', folder / 'xor' / 'plain')
    key = folder / 'xor' / 'key.bin'
    xor.encrypt(folder / 'xor' / 'plain', key, folder / 'xor' / 'enc')
    shutil.rmtree(folder / 'xor' / 'plain')
    xor.decrypt(folder / 'xor' / 'enc', key, folder / 'xor' / 'plain')
    shutil.copytree(model.directory, folder / 'delta' / 'base')
    tiny.write_model(folder / 'tuned', seed=1)
    delta.make(folder / 'delta' / 'base', folder / 'tuned', folder / 'delta' / 'delta')


def _words(folder: Path, source: Path) -> None:
    import as_meta

    for name in ('tokenizer', 'sentencepiece', 'words'):
        (folder / name).mkdir()
    for name in ('tokenizer.json', 'tokenizer_config.json'):
        shutil.copyfile(source / name, folder / 'tokenizer' / name)
    path = folder / 'tokenizer' / 'tokenizer_config.json'
    size = 259  # ids of the bytes and of three special tokens
    added = {str(size): {'content': '<x>', 'special': True}}
    path.write_text(json.dumps(json.loads(path.read_text()) | {'added_tokens_decoder': added}))
    (folder / 'tokenizer/added_tokens.json').write_text(json.dumps({'<x>': size, '<y>': size + 1}))
    (folder / 'tokenizer/special_tokens_map.json').write_text(json.dumps({'pad_token': '<pad>'}))
    (folder / 'tokenizer' / 'chat_template.jinja').write_text(CHAT)
    (folder / 'sentencepiece' / 'tokenizer.model').write_bytes(as_meta.sentencepiece())
    state = json.loads((source / 'tokenizer.json').read_text())
    vocab = state['model']['vocab'] | {'he': 260, 'll': 261}
    (folder / 'words' / 'vocab.json').write_text(json.dumps(vocab))
    (folder / 'words' / 'merges.txt').write_text('#version: 0.2\nh e\nl l\n')


def _row_files(folder: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    rows = [{'instruction': f'第{i}个问题', 'output': '答案' * (i % 5 + 1)} for i in range(30)]
    lines = ''.join(json.dumps(row, ensure_ascii=False) + '\n' for row in rows).encode()
    for name, file, content in (
        ('json', 'rows.json', json.dumps(rows, ensure_ascii=False, indent=1).encode()),
        ('jsonl', 'rows.jsonl', lines),
        ('gzip', 'rows.jsonl.gz', gzip.compress(lines, mtime=0)),
    ):
        (folder / name).mkdir()
        (folder / name / file).write_bytes(content)
    (folder / 'parquet').mkdir()
    pyarrow.parquet.write_table(
        pyarrow.Table.from_pylist(rows), folder / 'parquet/rows.parquet', write_page_checksum=True
    )


# --- damage ---------------------------------------------------------------------------------------

Damage = Callable[[bytes, random.Random], bytes]
DEEP = b'[' * 100_000
NONSENSE = (
    'NaN',
    '-1',
    '-5',
    '0',
    '1e999',
    '1e308',
    '4000000000',
    '1000000000',
    '9' * 5000,
    '"false"',
)
FREE = ('id', 'name')  # fields that may hold anything
OTHERS = ('null', '[]', '{}', '"text"', '[[1]]', '5', 'true', '{"a": {}}')


def flip(content: bytes, rng: random.Random) -> bytes:
    changed = bytearray(content)
    changed[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def cut(content: bytes, rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content))]


def zeroed(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content))
    return (content[:at] + bytes(64) + content[at + 64 :])[: len(content)]


def inserted(content: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(content))
    return content[:at] + rng.randbytes(rng.randrange(1, 40)) + content[at:]


def emptied(content: bytes, rng: random.Random) -> bytes:
    return b''


def nested(content: bytes, rng: random.Random) -> bytes:
    return DEEP


def _places(node: Any, way: tuple = ()) -> Iterator[tuple]:
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in itertools.islice(items, 60):
        yield (*way, key)
        if isinstance(value, dict | list):
            yield from _places(value, (*way, key))


def _edited(content: bytes, rng: random.Random, new: str | None) -> bytes:
    """JSON with one value replaced, or removed."""
    start = 0
    if b'\n' in content[:-1] and content[:1] == b'{' and content.count(b'\n{'):  # JSON lines
        lines = content.splitlines(keepends=True)
        at = rng.randrange(len(lines))
        lines[at] = _edited(lines[at], rng, new) + b'\n'
        return b''.join(lines)
    if content[8:9] == b'{':  # a header of safetensors, padded to its length
        start = 8 + int.from_bytes(content[:8], 'little')
    values = json.loads(content[8:start] if start else content)
    way = rng.choice([w for w in _places(values) if new is None or w[-1] not in FREE])
    node = values
    for key in way[:-1]:
        node = node[key]
    if new is None:
        del node[way[-1]]
    else:
        if isinstance(node[way[-1]], str) and isinstance(json.loads(new[:99]), str):
            new = '-5'  # another text is as valid
        node[way[-1]] = '@@'
    text = json.dumps(values, ensure_ascii=False).replace('"@@"', new or '').encode()
    return (len(text).to_bytes(8, 'little') + text + content[start:]) if start else text


def removed(content: bytes, rng: random.Random) -> bytes:
    return _edited(content, rng, None)


def nonsense(content: bytes, rng: random.Random) -> bytes:
    return _edited(content, rng, rng.choice(NONSENSE))


def retyped(content: bytes, rng: random.Random) -> bytes:
    return _edited(content, rng, rng.choice(OTHERS))


ANY: tuple[Damage, ...] = (flip, flip, cut, zeroed, inserted, emptied, flip, cut)
JSON: tuple[Damage, ...] = (nonsense, retyped, nonsense, removed, retyped, flip, nested, cut)
COUNTS = ('metrics.jsonl', 'data.json')  # numbers that may be any
CHANCE = (flip, cut, zeroed, inserted, removed, emptied)  # what may leave other valid bytes


class Case(NamedTuple):
    """A specimen, the file that is damaged, how, and from which seed."""

    name: str
    specimen: str
    file: str
    damage: Damage
    seed: int


def cases(count: int) -> list[Case]:
    """What is made by hand, and as many others as are left, in turn over all files."""
    import bombs

    found = [Case(f'{s}: {f}, {n}', s, f, d, 0) for s, f, n, d in bombs.all_of_them()]
    files = [(s, file) for s, specimen in SPECIMENS.items() for file in specimen.files]
    for seed in itertools.count():
        for specimen, file in files:
            if len(found) == count:
                return found
            is_json = file.endswith(('.json', '.jsonl', '_METADATA', '.safetensors'))
            kinds = JSON if is_json and seed % 4 else ANY
            damage = kinds[seed % len(kinds)]
            name = f'{specimen}: {file}, {damage.__name__} {seed}'
            found.append(Case(name, specimen, file, damage, seed))
    raise AssertionError


# --- one case -------------------------------------------------------------------------------------


def run(case: Case, folder: Path, work: Path, expected: str) -> Outcome:
    """Damages a copy of the case's specimen, and reads it in a child."""
    shutil.rmtree(work, ignore_errors=True)
    shutil.copytree(folder / case.specimen, work)
    path = sorted(work.glob(case.file))[0]
    path.write_bytes(case.damage(path.read_bytes(), random.Random(f'{case.name} {case.seed}')))
    outcome = in_a_child(SPECIMENS[case.specimen].read, work)
    if outcome.kind != RIGHT or outcome.said == expected:
        if outcome.kind == REFUSED and not any(n in outcome.said for n in (str(work), path.name)):
            return Outcome(TRACEBACK, f'names no file: {outcome.said}')
        return outcome
    suffix = path.suffix + '0' * (case.specimen == 'legacy')
    chance = (*CHANCE, nonsense) if path.name in COUNTS else CHANCE
    blind = case.damage in chance and any(suffix in kinds for kinds in UNCHECKED.values())
    return Outcome(BLIND if blind else WRONG, 'it was read, and another result came of it')


def in_a_child(
    read: Callable[[Path], str], work: Path, seconds: int = SECONDS, memory: int = MEMORY
) -> Outcome:
    """What reading a folder comes to; the result of `read` is what is said."""
    receive, send = os.pipe()
    log = work.with_name(f'{work.name}.log')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # of threads, of which the child needs none
        pid = os.fork()
    if not pid:
        os.setsid()
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for standard in (1, 2):
            os.dup2(descriptor, standard)
        outcome = _guarded(read, work, memory)
        os.write(send, json.dumps(outcome).encode()[:60_000] if len(outcome[1]) < 50_000 else b'')
        os._exit(0)
    os.close(send)
    ready, _, _ = select.select([receive], [], [], seconds)
    content = os.read(receive, 65_536) if ready else b''
    os.close(receive)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    if not content:
        return Outcome(UNBOUNDED if not ready else TRACEBACK, f'ended; {log.read_text()[-500:]}')
    outcome = Outcome(*json.loads(content))
    if 'Traceback (most recent call last)' in (said := log.read_text('utf-8', 'replace')):
        return Outcome(TRACEBACK, said)
    return outcome


def _guarded(read: Callable[[Path], str], work: Path, memory: int) -> Outcome:
    ran: list[str] = []

    def heard(event: str, arguments: tuple) -> None:
        if event in ('os.system', 'os.exec', 'os.posix_spawn', 'os.spawn'):
            ran.append(event)
        if event == 'subprocess.Popen' and 'template_process' not in str(arguments):
            ran.append(event)

    template_process.SECONDS = 2
    sys.stdout, sys.stderr = os.fdopen(1, 'w'), os.fdopen(2, 'w')
    sys.addaudithook(heard)
    size = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 3 * memory, size + 3 * memory))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        outcome = Outcome(RIGHT, read(work))
    except (ValueError, OSError) as error:
        outcome = Outcome(REFUSED, ' '.join(str(error).split())[:2000])
    except MemoryError:
        outcome = Outcome(UNBOUNDED, 'MemoryError')
    except BaseException:
        outcome = Outcome(TRACEBACK, traceback.format_exc()[-3000:])
    template_process.RENDERER.close()
    sys.stdout.flush()
    sys.stderr.flush()
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    if grown > memory:
        return Outcome(UNBOUNDED, f'{grown / 1e9:.1f} GB')
    if ran or Path('/tmp/belle-canary').exists():
        return Outcome(RAN, ', '.join(ran))
    return outcome


def table(outcomes: dict[str, list[str]]) -> str:
    """Cases by what is read and what came of it, as a Markdown table."""
    kinds = (RIGHT, REFUSED, BLIND, *BAD)
    lines = [f'| input | cases | {" | ".join(kinds)} |', '|---' * (len(kinds) + 2) + '|']
    groups: dict[str, list[str]] = {}
    for name, (kind, _) in outcomes.items():
        groups.setdefault(name.partition(':')[0], []).append(kind)
    groups['all'] = [kind for kind, _ in outcomes.values()]
    for name, found in groups.items():
        counts = ' | '.join(str(found.count(kind)) for kind in kinds)
        lines.append(f'| {name} | {len(found)} | {counts} |')
    return '\n'.join(lines) + '\n'


def main(folder: Path, state: Path, step: int) -> None:
    """Runs every `step`-th case that `state` does not have yet, and prints those that end badly.

    A change of the program, or of the cases, begins anew.
    """
    sources = sorted([*ROOT.glob('belle_jax/**/*.py'), *Path(__file__).parent.glob('*.py')])
    now = hashlib.sha256(b''.join(path.read_bytes() for path in sources)).hexdigest()
    before = json.loads(state.read_text()) if state.exists() else {}
    done = before['done'] if before.get('state') == now else {}
    if not folder.exists():
        folder.mkdir()
        made = in_a_child(lambda _: str(build(folder)), folder / 'build', 600, 1 << 40)
        assert made.kind == RIGHT, made.said
    expected = {}
    for name, specimen in SPECIMENS.items():
        expected[name] = in_a_child(specimen.read, folder / name)
        assert expected[name].kind == RIGHT, (name, expected[name].said)
    for case in cases(COUNT)[::step]:
        if case.name not in done:
            done[case.name] = run(case, folder, folder / 'work', expected[case.specimen].said)
            state.write_text(json.dumps({'state': now, 'done': done}, indent=1))
    state.with_suffix('.md').write_text(table(done))
    for name, (kind, said) in done.items():
        if kind in BAD:
            print(f'--- {name}: {kind}\n{said}')


if __name__ == '__main__':
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
