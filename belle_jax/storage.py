"""Places on object stores, gs:// and s3://, by way of a copy of each on a disk here.

This module alone knows of them. What is read is fetched into the copy and read there; a run works
in its copy, and what it has saved is sent (`runs.workdir`). A checkpoint counts, there as here,
once its manifest stands beside it: that is sent last, and what is there without one is not fetched.
Files are the same where size and time are, for a copy has its original's time. Stores have no
locks: one machine, or one job, trains in a place at a time.
"""

import contextlib
import functools
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from logging import CRITICAL, getLogger
from pathlib import Path, PurePosixPath
from typing import Any

from belle_jax.files import locked, whole_file
from belle_jax.json_files import read_json
from belle_jax.progress import Progress

REMOTE = re.compile(r'(gs|s3):/+')  # a Path has one slash of the two
# What only whole checkpoints may have: `run_directory` says what is in it.
SAVED, STEP, MANIFEST = re.compile('(checkpoints|frozen)/'), r'\w+/\d+(?=[./])', '.manifest.json'
TEMPORARY = '.orbax-checkpoint-tmp'
CHUNK = 1 << 25  # bytes asked for at once
THREADS = 8
CREDENTIALS = {
    's3': 'AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE',
    'gs': 'GOOGLE_APPLICATION_CREDENTIALS, or log in (gcloud auth application-default login)',
}
REFUSED = {'PermissionError', 'NoCredentialsError', 'PartialCredentialsError', 'RefreshError'}

Files = Mapping[str, tuple[int, float]]  # by name below a place: bytes, and seconds since 1970


def is_remote(place: str | Path) -> bool:
    """Whether a place lies on an object store."""
    return bool(REMOTE.match(str(place)))


def local(place: str | Path, names: Collection[str] = ()) -> Path:
    """A path here; what lies on an object store is fetched, where it is new or was changed.

    Args:
        place: A path, which is returned as it is; or gs://BUCKET/NAME or s3://BUCKET/NAME, a file
            or directory, which is looked at once in a process. Of a run, the newest whole
            checkpoint alone is fetched, or the one that is named.
        names: Of the files that are wanted; by default all.
    Raises:
        OSError: the store cannot be read, or has nothing there.
    """
    return _fetched(str(place), tuple(names)) if is_remote(place) else Path(place)


@functools.cache
def _fetched(url: str, names: tuple[str, ...]) -> Path:
    run, _, step = url.rstrip('/').rpartition('/checkpoints/')
    place = Place(run if step.isdigit() else url, 'sources')
    there = place.list()
    if not there:
        raise OSError(f'{place} has nothing: look at the name, or put there what is to be read.')
    files = whole(there)
    wanted = step if step.isdigit() else str(newest(files))
    other = re.compile(rf'checkpoints/(?!{wanted}[./])')
    chosen = {n: f for n, f in files.items() if not other.match(n)}
    if names:
        chosen = {n: f for n, f in chosen.items() if PurePosixPath(n).name in names}
    place.copy.parent.mkdir(parents=True, exist_ok=True)
    with locked(place.copy.with_name(f'.{place.copy.name}.lock')):
        place.follow(chosen, names)
    return place.copy / 'checkpoints' / step if step.isdigit() else place.copy


class Place:
    """A file or directory of an object store, and its copy."""

    def __init__(self, place: str | Path, folder: str):
        """Takes a URL, and the folder of the cache that the copy lies in."""
        self._scheme = REMOTE.match(str(place))[1]  # type: ignore[index]
        self._key = REMOTE.sub('', str(place), count=1).rstrip('/')
        if not self._key or '..' in self._key.split('/'):
            raise ValueError(f'{place} must name a bucket and a place in it: s3://BUCKET/NAME.')
        cache = os.environ.get('BELLE_JAX_CACHE') or Path.home() / '.cache' / 'belle_jax'
        self.copy = Path(cache).expanduser().absolute() / folder / self._scheme / self._key

    def __str__(self) -> str:
        return f'{self._scheme}://{self._key}'

    def list(self) -> Files:
        """The files that are there; the one of a file is called ''."""
        with self._explaining():
            store = _store(self._scheme)
            store.invalidate_cache()
            entries = store.find(self._key, detail=True).items()
        # A name that ends in / stands for a folder.
        files = {n: e for n, e in entries if e['type'] == 'file' and n[-1] != '/'}
        found = {name[len(self._key) :].strip('/'): entry for name, entry in files.items()}
        if outside := [n for n in found if '..' in n.split('/')]:
            raise ValueError(f'{self}/{outside[0]} would lie outside of its copy: rename it.')
        return {n: (int(e['size']), _time(e)) for n, e in found.items()}

    def files(self) -> Files:
        """Those of the copy, without what is hidden or not whole."""
        found = {}
        for path in self.copy.rglob('*') if self.copy.is_dir() else [self.copy]:
            name = '' if path == self.copy else path.relative_to(self.copy).as_posix()
            with contextlib.suppress(FileNotFoundError):  # what others remove meanwhile
                if not re.search(rf'(^|/)\.|{TEMPORARY}', name) and not path.is_dir():
                    found[name] = (path.stat().st_size, path.stat().st_mtime)
        return whole(found)

    def follow(self, there: Files, names: Collection[str] = ()) -> None:
        """Makes the copy what is there, or those of its files that have one of the names."""
        here = self.files()
        for name in here.keys() - there.keys():
            if not names or PurePosixPath(name).name in names:
                (self.copy / name).unlink(missing_ok=True)
        changed, got = _changed(there, here), []
        total = sum(there[name][0] for name in changed) // 10**6
        progress = Progress(f'fetching {self}', 'MB', max(total, 1))

        def told(size: int) -> None:
            got.append(size)
            progress.show(sum(got) // 10**6)

        self._each(lambda name: self._get(name, told), changed)
        progress.end(total)

    def send(self) -> None:
        """Makes what is there the copy: manifests last, and only then old checkpoints go.

        What a manifest here vouches for stays, for other copies may have sent it.
        """
        here, there = self.files(), self.list()
        new, named = _changed(here, there), here.keys() | self._vouched(here)
        saved = {n: re.match(STEP, n) for n in there.keys() - named if SAVED.match(n)}
        left = {n for n, step in saved.items() if step and f'{step[0]}{MANIFEST}' in here}
        # A step that is saved once more: what its manifest vouches for changes from here on.
        self._delete(there.keys() & {n for n in new if n.endswith(MANIFEST)})
        self._each(self._put, [n for n in new if not n.endswith(MANIFEST)])
        self._delete(left)  # of an upload that was cut
        self._each(self._put, [n for n in new if n.endswith(MANIFEST)])
        self._delete(sorted(saved.keys() - left, key=lambda n: not n.endswith(MANIFEST)))
        self._date(new)

    def send_parts(self) -> None:
        """Sends what this copy has of checkpoints, of which others have the rest."""
        new = _changed(self.files(), self.list())
        new = [name for name in new if SAVED.match(name) and not name.endswith(MANIFEST)]
        self._each(self._put, new)
        self._date(new)

    def _vouched(self, here: Files) -> set[str]:
        names = set()
        for manifest in (name for name in here if SAVED.match(name) and name.endswith(MANIFEST)):
            with contextlib.suppress(ValueError, OSError):  # damaged, or removed meanwhile
                step = manifest.removesuffix(MANIFEST)
                names |= {f'{step}/{n}' for n in read_json(self.copy / manifest).get('files', ())}
        return names

    def _date(self, new: Collection[str]) -> None:
        """Gives what has arrived whole the time that it has there, by which it is known again."""
        for name, (size, when) in self.list().items() if new else ():
            with contextlib.suppress(FileNotFoundError):
                if name in new and (self.copy / name).stat().st_size == size:
                    os.utime(self.copy / name, (when, when))

    def _each(self, do: Callable[[str], None], names: Collection[str]) -> None:
        """Does something with files, some at a time, with manifests after all others."""
        with self._explaining(), ThreadPoolExecutor(THREADS) as pool:
            for last in (False, True):
                for _ in pool.map(do, [n for n in names if n.endswith(MANIFEST) == last]):
                    pass

    def _get(self, name: str, told: Callable[[int], None]) -> None:
        path = self.copy / name
        path.parent.mkdir(parents=True, exist_ok=True)
        store, key = _store(self._scheme), f'{self._key}/{name}'.rstrip('/')
        with whole_file(path, wait=True) as file, store.open(key, cache_type='none') as remote:
            while block := remote.read(CHUNK):
                file.write(block)
                told(len(block))
            file.flush()
            when = _time(remote.details)
            os.utime(file.fileno(), (when, when))

    def _put(self, name: str) -> None:
        _store(self._scheme).put_file(str(self.copy / name), f'{self._key}/{name}')

    def _delete(self, names: Iterable[str]) -> None:
        with self._explaining():
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    _store(self._scheme).rm_file(f'{self._key}/{name}')

    @contextlib.contextmanager
    def _explaining(self) -> Iterator[None]:
        """Makes one sentence of what libraries raise, which say it with many classes."""
        try:
            yield
        except Exception as error:
            if isinstance(error, OSError) and error.filename:  # of the disk here
                raise
            bucket = f'{self._scheme}://{self._key.partition("/")[0]}'
            kinds = {kind.__name__ for kind in type(error).__mro__}
            text = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
            if isinstance(error, ImportError):
                say = "needs packages that are not installed: pip install 'belle-jax[remote]'."
            elif kinds & REFUSED or re.search('forbidden|unauthori|credential', text.lower()):
                say = f'may not be used with the credentials here: set {CREDENTIALS[self._scheme]}.'
            elif isinstance(error, FileNotFoundError):
                say = f'cannot be used: look whether the bucket {bucket} is there, or make it.'
            else:
                text = re.sub(r'//[^/@\s]+@', '//', text)
                say = f'does not answer ({text}): look after the network and the name.'
            raise OSError(f'{self} {say}') from error


@functools.cache
def _store(scheme: str) -> Any:
    """The file system of a scheme, with the credentials of the environment."""
    # Of gcsfs without its second way to a bucket, which asks for the kind of each by gRPC.
    os.environ.setdefault('GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT', 'false')
    import fsspec

    for name in ('gcsfs', 's3fs'):  # they log a traceback of what they raise
        getLogger(name).setLevel(CRITICAL)
    return fsspec.filesystem(scheme, use_listings_cache=False, skip_instance_cache=True)


def _time(entry: Mapping[str, Any]) -> float:
    """When a file was put there: S3 says it by one name, Google by another."""
    return (entry.get('LastModified') or entry['mtime']).timestamp()


def _changed(these: Files, those: Files) -> list[str]:
    """The names of files that are not among those, or are other files there."""

    def same(one: tuple[int, float], other: tuple[int, float] | None) -> bool:
        return bool(other) and one[0] == other[0] and abs(one[1] - other[1]) < 1e-3

    return [name for name, file in these.items() if not same(file, those.get(name))]


def whole(files: Files) -> Files:
    """Without what is no part of a whole checkpoint, and without logs, which are of one start."""

    def kept(name: str) -> bool:
        if not SAVED.match(name):
            return not name.startswith('logs/')
        step = re.match(STEP, name)
        return bool(step and f'{step[0]}{MANIFEST}' in files)

    return {name: file for name, file in files.items() if kept(name)}


def newest(files: Files) -> int:
    """The step of the newest checkpoint, or -1."""
    return max((int(n) for n in re.findall(r'checkpoints/(\d+)\.m', ' '.join(files))), default=-1)
