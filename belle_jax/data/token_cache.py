"""Tokenised sources on disk, found again by what made them.

An entry's name is a hash of the source's bytes, the tokenizer, the template and everything else
that decides the tokens, so an entry is never out of date. It is written beside its place and then
renamed, so that a crash leaves nothing that looks whole; a lock lets a second process wait for the
first one's work instead of repeating it. Length, packing and weights are not part of it: they are
decided from the lengths, afterwards.

    CACHE/<key>/meta.json     what it is, and the account of reading it
    CACHE/<key>/tokens.bin    all ids, one example after the other
    CACHE/<key>/trained.bin   uint8, whether each id is part of an answer
    CACHE/<key>/examples.npz  for each example: where it ends, its record, its trained ids, its kind
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import hashlib
import itertools
import json
import os
import pathlib
import time
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from absl import logging

from belle_jax import storage
from belle_jax.data.record_reader import RecordReader
from belle_jax.data.records import Record
from belle_jax.data.templates import Template
from belle_jax.data.tokenizer import Piece
from belle_jax.files import checksum, locked, remove, whole_directory
from belle_jax.json_files import read_json, write_json
from belle_jax.progress import Progress

VERSION = 3  # raise it when the same source gives other tokens, or the files change
CHUNK = 1024  # records tokenised together: enough to keep every core busy
TEXT, CONVERSATION = 1, 0
CHECKED = ('tokens.bin', 'trained.bin', 'examples.npz')


@dataclasses.dataclass(frozen=True)
class Tokens:
    """One tokenised source, mapped into memory.

    An example is what is trained on in one piece: a conversation, a plain text, or (with templates
    that rewrite history) one answer with what comes before it.
    """

    key: str
    tokens: np.ndarray  # [all ids]
    trained: np.ndarray  # bool [all ids]
    bounds: np.ndarray  # int64 [examples + 1]
    record: np.ndarray  # int64 [examples], the number of the source's usable row
    trained_count: np.ndarray  # int64 [examples]
    kind: np.ndarray  # uint8 [examples], TEXT or CONVERSATION
    record_hash: np.ndarray  # uint64 [records], equal for equal conversations
    account: dict[str, Any]  # path, describe, rows, skipped, unanswered, unread_fields


def default_directory() -> pathlib.Path:
    """Where entries lie unless --config.data.cache_dir says otherwise."""
    base = os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache'
    return pathlib.Path(base) / 'belle_jax' / 'tokens'


def open_source(
    path: str, template: Template, system: str, on_bad_row: str, cache_dir: str = ''
) -> Tokens:
    """The tokens of a source, from the cache or by making them.

    Args:
        path: What `RecordReader` takes.
        template: Writes the conversations.
        system: A system message for conversations that have none, or ''.
        on_bad_row: 'error' or 'skip'.
        cache_dir: Also on an object store; '' is `default_directory()`.
    Returns:
        The tokens, mapped.
    Raises:
        ValueError: the source cannot be read; see `RecordReader`.
    """
    remote = storage.is_remote(cache_dir)
    if remote:
        cache = storage.Place(cache_dir, 'tokens').copy
    else:
        cache = pathlib.Path(cache_dir) if cache_dir else default_directory()
    cache.mkdir(parents=True, exist_ok=True)
    reader = RecordReader(path, on_bad_row)
    made_of = (
        VERSION,
        _digest(reader, cache),
        reader.container,
        template.tokenizer.fingerprint(),
        template.fingerprint(),
        system,
        on_bad_row,
    )
    key = hashlib.sha256(repr(made_of).encode()).hexdigest()[:32]
    entry = cache / key
    found = _open(entry)
    if found is None:
        with locked(cache / f'{key}.lock'):
            found = _open(entry)  # another process may have made it meanwhile
            place = storage.Place(f'{cache_dir}/{key}', 'tokens') if remote else None
            if found is None and place:
                place.follow(place.list())
                found = _open(entry)
            if found is None:
                remove(entry)
                with whole_directory(entry) as work:
                    _write(work, reader, template, system)
                found = _open(entry)
                if place:
                    place.send()
    if found is None:
        raise ValueError(
            f'{entry} was damaged while it was written: free space there, start again.'
        )
    # The entry may have been made from the same bytes under another name.
    told = f'{path}: {found.account["found"]}'
    account = {'path': path, 'describe': told} | found.account
    del account['found']
    return dataclasses.replace(found, account=account)


def _write(work: pathlib.Path, reader: RecordReader, template: Template, system: str) -> None:
    """Tokenises a source into a directory."""
    dtype = np.dtype(np.uint16 if len(template.tokenizer) <= 1 << 16 else np.int32)
    columns: list[tuple[np.ndarray, ...]] = []
    hashes: list[int] = []
    total = 0
    progress = Progress(f'tokenising {reader.path}', 'tokens')
    with (work / 'tokens.bin').open('wb') as ids, (work / 'trained.bin').open('wb') as masks:
        for chunk, owners, kinds, made in _assembled(reader, template, system):
            tokens, trained, lengths = made
            hashes += map(_hash, chunk)
            ids.write(tokens.astype(dtype).data)
            masks.write(trained.view(np.uint8).data)
            total += len(tokens)
            before = np.concatenate([[0], np.cumsum(trained)])
            ends = np.cumsum(lengths)
            count = before[ends] - before[ends - lengths]
            columns.append((lengths, owners.astype(np.int64), count, kinds.astype(np.uint8)))
            progress.show(total, reader.done)
    progress.end(total)
    names = ('length', 'record', 'trained_count', 'kind')
    table = {name: np.concatenate(parts) for name, parts in zip(names, zip(*columns))}
    table['record_hash'] = np.asarray(hashes, np.uint64)
    np.savez(work / 'examples.npz', allow_pickle=False, **table)
    meta = {
        'version': VERSION,
        'crc32': {file: checksum(work / file) for file in CHECKED},
        'dtype': dtype.name,
        'tokens': total,
        'template': template.name,
        'account': {
            'found': reader.found,
            'rows': reader.rows,
            'skipped': dict(reader.skipped),
            'unanswered': reader.unanswered,
            'unread_fields': dict(sorted(reader.unread.items())),
        },
    }
    # Its own checksum stands last: a flipped digit of the account is as bad as one of a token.
    write_json(work / 'meta.json', meta | {'own': _own(meta)})


def _assembled(reader: RecordReader, template: Template, system: str) -> Iterator[tuple]:
    """Chunks of records with their examples' owners, kinds and arrays, in order.

    While `tokenizers` works on one chunk, which leaves Python's lock alone, the next one is read
    and the one before is written.
    """
    rows, first = reader.written(lambda record: _examples(record, template, system)), 0
    waiting: collections.deque = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        while chunk := list(itertools.islice(rows, CHUNK)):
            records, written = zip(*chunk)
            count = [len(examples) for examples in written]
            owners = np.repeat(np.arange(first, first + len(chunk)), count)
            kinds = np.repeat([CONVERSATION if r.text is None else TEXT for r in records], count)
            first += len(chunk)
            made = pool.submit(template.tokenizer.assemble, [e for made in written for e in made])
            waiting.append((records, owners, kinds, made))
            if len(waiting) > 2:
                *about, made = waiting.popleft()
                yield *about, made.result()
        for *about, made in waiting:
            yield *about, made.result()


def _examples(record: Record, template: Template, system: str) -> list[list[Piece]]:
    """Pieces of a record's examples."""
    tokenizer = template.tokenizer
    if record.text is not None:
        begin = tokenizer.bos_id if tokenizer.adds_bos else None
        start = [] if begin is None else [Piece(begin)]
        return [[*start, Piece(record.text, True), Piece(tokenizer.eos_id, True)]]
    messages = record.messages
    if system and messages[0]['role'] != 'system':
        messages = [{'role': 'system', 'content': system}, *messages]
    return template.examples(messages)


def _hash(record: Record) -> int:
    """Equal for equal conversations of which the same is learnt, whatever their rows' layout."""
    texts = []
    for m in record.messages:
        mark = '' if m.get('trained', True) else '\x1fnot learnt'
        texts.append(f'{m["role"]}\x1f{m["content"]}{m.get("input", "")}{mark}')
    text = '\x1e'.join(texts) if record.text is None else record.text
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), 'little')


def _open(entry: pathlib.Path) -> Tokens | None:
    """Maps an entry; None where there is none, or one whose files are not as they were written.

    Every byte is read, which one run in a thousand needs: but a flipped one would change losses.
    """
    if not entry.exists():
        return None
    try:
        meta = read_json(entry / 'meta.json')
        if meta.pop('own', None) != _own(meta):
            raise ValueError('meta.json has another checksum')
        with concurrent.futures.ThreadPoolExecutor() as pool:  # zlib leaves Python's lock alone
            sums = dict(zip(CHECKED, pool.map(lambda file: checksum(entry / file), CHECKED)))
        if sums != meta['crc32']:
            raise ValueError('a file has another checksum')
        dtype = np.dtype(meta['dtype'])
        # Opened here, because numpy does not close a file that turns out not to be an archive.
        with (entry / 'examples.npz').open('rb') as stream, np.load(stream) as file:
            table = dict(file)
        bounds = np.concatenate([[0], np.cumsum(table['length'], dtype=np.int64)])
        # Plain arrays over the mapping: np.memmap's own class is slow to index.
        tokens = np.asarray(np.memmap(entry / 'tokens.bin', dtype, 'r'))
        trained = np.asarray(np.memmap(entry / 'trained.bin', np.bool_, 'r'))
    except (OSError, ValueError, KeyError, TypeError) as error:
        logging.warning('The cache entry %s is damaged (%s) and is made anew.', entry, error)
        return None
    del table['length']
    return Tokens(entry.name, tokens, trained, bounds, **table, account=meta['account'])


def _digest(reader: RecordReader, cache: pathlib.Path) -> str:
    """The source's digest, remembered by path, size and time so that a warm start reads nothing."""
    file = reader.file
    if not file.is_file():
        return reader.digest()
    stat = file.stat()
    state = [str(file.resolve()), stat.st_size, stat.st_mtime_ns]
    name = hashlib.sha256(state[0].encode()).hexdigest()[:32]
    note = cache / f'{name}.digest.json'
    with contextlib.suppress(OSError, ValueError, KeyError):
        known = read_json(note)
        if known['state'] == state and known.pop('own', None) == _own(known):
            return known['digest']
    digest = reader.digest()
    # A file changed a moment ago may change again within its clock's tick: not remembered.
    if time.time() - stat.st_mtime > 2:
        known = {'state': state, 'digest': digest}
        write_json(note, known | {'own': _own(known)})
    return digest


def _own(values: dict[str, Any]) -> int:
    return zlib.crc32(json.dumps(values, sort_keys=True).encode())
