"""Speed and memory of BELLE's XOR diffs, next to `cp`, md5 and BELLE's loop over bytes.

    python -m benchmarks.xor [--size_mb=4000] [--output=xor.json]

Makes random files and a random key as large as one of them, runs `convert.xor encrypt` and
`decrypt` as processes, and in turns with them copies the same files with `cp` and hashes them on
one core; the best of several rounds counts. Our times include starting Python and waiting until the
disk has everything, which `cp` does not do. Memory is the peak of everything that is resident
(VmHWM), pages of files included. Held to: decrypting at 0.8 of the slower of `cp` and md5, at 25
times the loop, and below 300 MB.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from absl import app, flags

SIZE_MB = flags.DEFINE_integer('size_mb', 4000, 'Of all files together, in 10^6 bytes.')
FILES = flags.DEFINE_integer('files', 2, 'How many files.')
ROUNDS = flags.DEFINE_integer(
    'rounds', 2, 'Of each measurement, two of cp and decrypt; the best counts.'
)
FOLDER = flags.DEFINE_string('folder', None, 'Where to work, on the disk in question.')
OUTPUT = flags.DEFINE_string('output', None, 'JSON file; by default only printed.')

NAMES = ('encrypt', 'decrypt', 'cp', 'md5', 'loop')
LOOP = 8 * 10**6  # bytes for the loop over bytes
BLOCK = 2**20


def main(argv: list[str]) -> None:
    """Measures, prints what it took, and fails where a bound is missed."""
    del argv
    with tempfile.TemporaryDirectory(dir=FOLDER.value) as folder:
        measured = measure(Path(folder), SIZE_MB.value * 10**6 // FILES.value)
    text = json.dumps(measured, indent=2)
    print(text)
    if OUTPUT.value:
        Path(OUTPUT.value).write_text(text + '\n', 'utf-8')
    memory = max(measured['decrypt_peak_memory_mb'], measured['encrypt_peak_memory_mb'])
    if measured['of_the_slower'] < 0.8 or measured['times_the_loop'] < 25 or memory > 300:
        sys.exit('benchmarks.xor: a bound is missed.')


def measure(folder: Path, size: int) -> dict[str, Any]:
    """Runs everything in turns.

    Args:
        folder: Takes four times the files' sizes.
        size: Bytes of one file.
    Returns:
        Rates in MB/s, memory in MB.
    """
    plain, encrypted, key = folder / 'plain', folder / 'encrypted', folder / 'key.pth'
    plain.mkdir()
    for number in range(FILES.value):
        write(plain / f'{number}.dat', size, number)
    write(key, size - 12_345, FILES.value)  # a file wraps around, at no end of a chunk
    total = size * FILES.value
    target = folder / 'out'
    best: dict[str, float] = dict.fromkeys(NAMES, float('inf'))
    memory: dict[str, int] = {'encrypt': 0, 'decrypt': 0}

    def take(name: str, work: Callable[[], object]) -> None:
        begun = time.perf_counter()
        work()
        best[name] = min(best[name], time.perf_counter() - begun)
        os.sync()  # what is still to be written is not the next one's to pay

    def program(action: str, source: Path, target: Path) -> None:
        flags = (f'--source={source}', f'--key={key}', f'--target={target}')
        memory[action] = max(memory[action], watch('convert.xor', action, *flags))

    def fresh() -> Path:
        # Memory that the deleted files leave is cheaper to write to than other memory, above all in
        # a virtual machine; so each writer follows another one's deletion.
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        return target

    program('encrypt', plain, encrypted)
    files = sorted(encrypted.glob('*.enc'))
    for _ in range(ROUNDS.value):
        for _ in range(2):
            fresh()
            take('cp', lambda: subprocess.run(['cp', *files, target], check=True))
            fresh()
            take('decrypt', lambda: program('decrypt', encrypted, target))
        if any(md5([f]) != md5([target / f.name]) for f in plain.iterdir()):
            sys.exit('benchmarks.xor: files did not come back.')
        fresh()
        take('encrypt', lambda: program('encrypt', plain, target))
        take('md5', lambda: md5(files))
        take('loop', lambda: loop(files[0], key, folder / 'loop'))
    return report(best, memory, total)


def report(best: dict[str, float], memory: dict[str, int], total: int) -> dict[str, Any]:
    """Rates and memory from the best seconds of each, the peaks in bytes, and the bytes in all."""
    rate = {name: (LOOP if name == 'loop' else total) / best[name] / 1e6 for name in best}
    return {
        'benchmark': 'xor',
        'megabytes': total / 1e6,
        'decrypt_mb_per_second': round(rate['decrypt']),
        'encrypt_mb_per_second': round(rate['encrypt']),
        'cp_mb_per_second': round(rate['cp']),
        'md5_on_one_core_mb_per_second': round(rate['md5']),
        'loop_over_bytes_mb_per_second': round(rate['loop'], 1),
        'of_the_slower': round(rate['decrypt'] / min(rate['cp'], rate['md5']), 3),
        'times_the_loop': round(rate['decrypt'] / rate['loop'], 1),
        'decrypt_peak_memory_mb': round(memory['decrypt'] / 1e6),
        'encrypt_peak_memory_mb': round(memory['encrypt'] / 1e6),
    }


def write(path: Path, size: int, seed: int) -> None:
    """A file of random bytes."""
    rng = np.random.default_rng(seed)
    with path.open('wb') as file:
        for start in range(0, size, BLOCK):
            file.write(rng.bytes(min(BLOCK, size - start)))


def watch(module: str, *arguments: str) -> int:
    """Runs a program; the most memory it held, in bytes."""
    process = subprocess.Popen(
        [sys.executable, '-m', module, *arguments], stdout=subprocess.DEVNULL
    )
    peak = 0

    def poll() -> None:
        nonlocal peak
        while process.poll() is None:
            peak = max(peak, _resident(process.pid))
            time.sleep(0.02)

    thread = threading.Thread(target=poll)
    thread.start()
    code = process.wait()
    thread.join()
    if code:
        sys.exit(f'benchmarks.xor: {module} {arguments[0]} failed.')
    return peak


def _resident(pid: int) -> int:
    try:
        status = Path(f'/proc/{pid}/status').read_text()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    for line in status.splitlines():
        if line.startswith('VmHWM:'):
            return int(line.split()[1]) * 1024
    return 0


def md5(files: list[Path]) -> str:
    """Hashes files on one core."""
    digest = hashlib.md5(usedforsecurity=False)
    for path in files:
        with path.open('rb', buffering=0) as file:
            while block := file.read(BLOCK):
                digest.update(block)
    return digest.hexdigest()


def loop(encrypted: Path, key: Path, target: Path) -> None:
    """Decrypts the beginning of a file as BELLE does: byte by byte, then SHA-256 and writing."""
    with encrypted.open('rb') as file, key.open('rb') as stream, target.open('wb') as out:
        file.seek(32)
        plain = bytes(a ^ b for a, b in zip(file.read(LOOP), stream.read(LOOP), strict=True))
        hashlib.sha256(plain).hexdigest()
        out.write(plain)


if __name__ == '__main__':
    app.run(main)
