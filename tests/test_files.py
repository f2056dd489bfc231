"""What is written appears whole or not at all, and a person is told why in one sentence."""

import contextlib
import errno
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from belle_jax import files, json_files

ROOT = Path(__file__).resolve().parents[1]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@contextlib.contextmanager
def text_in(path: Path):
    with files.WholeText(path) as out:
        yield lambda content: out.write(content.decode())


@contextlib.contextmanager
def file_in(path: Path):
    with files.whole_file(path) as out:
        yield out.write


@pytest.mark.parametrize('opened', [file_in, text_in])
@pytest.mark.parametrize('error', [KeyboardInterrupt, ConnectionError])
def test_a_file_is_replaced_when_the_block_ends_and_untouched_when_it_fails(
    tmp_path, opened, error: type[BaseException]
):
    path = tmp_path / 'a'
    with opened(path) as write:
        write('贝壳'.encode())
        assert names(tmp_path) == ['.a.partial']
    assert path.read_text('utf-8') == '贝壳'
    with pytest.raises(error), opened(path) as write:
        write(b'other')
        raise error('elsewhere')
    assert path.read_text('utf-8') == '贝壳' and names(tmp_path) == ['a']


@pytest.mark.parametrize('length', [1, 10**6])  # refused at the end, and while writing
def test_a_full_disk_leaves_no_file(tmp_path, monkeypatch, length):
    monkeypatch.setattr(os, 'fdopen', lambda *_, **__: open('/dev/full', 'wb'))  # noqa: SIM115
    with pytest.raises(OSError, match='No space'), files.whole_file(tmp_path / 'a') as out:
        out.write(b'x' * length)
    with (
        pytest.raises(ValueError, match=r'b cannot be written \(no space left'),
        files.WholeText(tmp_path / 'b') as out,
    ):
        out.write('x' * length)
    assert names(tmp_path) == []


def test_text_makes_its_directories_and_names_a_file_that_cannot_be(tmp_path):
    with files.WholeText(tmp_path / 'new' / 'a') as out:
        out.write('一')
    assert (tmp_path / 'new' / 'a').read_bytes() == '一'.encode()
    for path in (tmp_path / 'new' / 'a' / 'b', tmp_path / 'new'):
        with pytest.raises(ValueError, match=f'{path} cannot be written'), files.WholeText(path):
            pass
    assert names(tmp_path) == ['new'] and names(tmp_path / 'new') == ['a']


def test_json_comes_back_and_what_is_none_is_named(tmp_path):
    path = tmp_path / 'a.json'
    json_files.write_json(path, {'名': [1, None]})
    assert path.read_text('utf-8') == '{\n  "名": [\n    1,\n    null\n  ]\n}\n'
    assert json_files.read_json(path) == {'名': [1, None]}
    path.write_text('{"a": 1}', 'utf-8-sig')
    assert json_files.read_json(path) == {'a': 1}
    for content in (b'{', b'{"a": "\xff"}', b'{"a":' * 10**5):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r'a\.json is not readable JSON \(.*: mend it\.'):
            json_files.read_json(path, 'mend it')
    path.write_text('[]')
    with pytest.raises(ValueError, match='does not hold a JSON object'):
        json_files.read_json(path)
    with pytest.raises(ValueError, match=r'b\.json is missing: copy it again\.'):
        json_files.read_json(tmp_path / 'b.json')


def test_a_new_directory_is_whole_or_not_there(tmp_path):
    target = tmp_path / 'a' / 'out'
    with files.new_directory(target, 10) as partial:
        (partial / 'x').write_text('1')
        assert not target.exists()
    assert names(target) == ['x'] and names(target.parent) == ['out']
    with (
        pytest.raises(ValueError, match='--to=.* not empty: nothing is overwritten'),
        files.new_directory(target, 0, '--to'),
    ):
        pass
    with pytest.raises(KeyboardInterrupt), files.new_directory(tmp_path / 'b', 0) as partial:
        (partial / 'x').write_text('1')
        raise KeyboardInterrupt
    assert names(tmp_path) == ['a']


@pytest.mark.parametrize(
    ('code', 'message'),
    [
        (errno.ENOSPC, 'the disk of --to=.*out is full: 10 bytes were .* on another disk'),
        (errno.EROFS, r'--to=.*out cannot be written \(read-only.*may write\.'),
        (errno.EIO, 'Input/output'),
    ],
)
def test_what_a_disk_refuses_is_one_sentence(tmp_path, code, message, monkeypatch):
    with (
        pytest.raises(OSError, match=message),
        files.new_directory(tmp_path / 'out', 10, '--to') as partial,
    ):
        (partial / 'x').write_text('1')
        raise OSError(code, os.strerror(code))
    with (
        pytest.raises(PermissionError, match='elsewhere'),
        files.new_directory(tmp_path / 'out', 0),
    ):
        raise PermissionError(errno.EACCES, 'Permission denied', '/elsewhere')
    usage = shutil._ntuple_diskusage(10, 5, 5)  # type: ignore[attr-defined]
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage)
    with (
        pytest.raises(OSError, match='out needs 10 bytes and its disk has 5 bytes free: make room'),
        files.new_directory(tmp_path / 'out', 10),
    ):
        pass
    assert names(tmp_path) == []


def test_a_directory_of_files_joins_one_that_is_there_and_stays_away_when_empty(tmp_path):
    left = tmp_path / '.a.partial'
    left.mkdir()
    (left / 'half').write_text('of a killed process')
    with files.whole_directory(tmp_path / 'a'):
        pass
    assert names(tmp_path) == []
    for content in ('old', 'new'):
        with files.whole_directory(tmp_path / 'a') as partial:
            (partial / content).touch()
            (partial / 'both').write_text(content)
    assert names(tmp_path) == ['a'] and names(tmp_path / 'a') == ['both', 'new', 'old']
    assert (tmp_path / 'a' / 'both').read_text() == 'new'


def test_what_the_dead_left_is_swept_and_what_the_living_write_stays(tmp_path):
    for name in ('.a.partial', '.b.partial', 'a.partial', '.a', '.c.deleted'):
        (tmp_path / name).touch()
    (tmp_path / '.d.deleted').mkdir()
    (tmp_path / '.d.deleted' / 'x').touch()
    with files.whole_file(tmp_path / 'e'), files.whole_directory(tmp_path / 'f'):
        files.sweep(tmp_path, lambda name: name != 'b')
        files.sweep(tmp_path / 'absent')
        assert names(tmp_path) == ['.a', '.b.partial', '.e.partial', '.f.partial', 'a.partial']
    files.sweep(tmp_path)
    assert names(tmp_path) == ['.a', 'a.partial', 'e']


def test_a_second_writer_is_told_and_takes_nothing_away(tmp_path):
    for writing, opened in (
        (files.whole_file(tmp_path / 'a'), lambda: files.whole_file(tmp_path / 'a')),
        (files.new_directory(tmp_path / 'b', 0), lambda: files.new_directory(tmp_path / 'b', 0)),
    ):
        with writing as first:
            with pytest.raises(OSError, match='another process is writing'), opened():
                pass
            first.write(b'1') if not isinstance(first, Path) else (first / 'x').touch()
    assert names(tmp_path) == ['a', 'b'] and names(tmp_path / 'b') == ['x']


def test_what_a_killed_process_left_makes_room_before_room_is_looked_for(tmp_path, monkeypatch):
    left = tmp_path / '.out.partial'
    left.mkdir()
    (left / 'half').write_text('of a killed process')

    def usage(_):
        return shutil._ntuple_diskusage(10, 5, 5 if any(left.iterdir()) else 10)  # type: ignore

    monkeypatch.setattr(shutil, 'disk_usage', usage)
    with files.new_directory(tmp_path / 'out', 10) as partial:
        (partial / 'x').touch()
    assert names(tmp_path) == ['out'] and names(tmp_path / 'out') == ['x']


def test_what_is_removed_is_gone_at_once_or_swept(tmp_path, monkeypatch):
    for name in ('.a.deleted', 'a'):
        (tmp_path / name).mkdir()
        (tmp_path / name / 'x').touch()
    files.remove(tmp_path / 'a')
    files.remove(tmp_path / 'absent')
    assert names(tmp_path) == []


def test_without_locks_who_comes_last_is_believed(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, 'No locks available')

    monkeypatch.setattr(fcntl, 'flock', refuse)
    (tmp_path / '.a.partial').write_text('of a killed process')
    files.write_text(tmp_path / 'a', '1')
    with files.whole_directory(tmp_path / 'b') as partial:
        (partial / 'x').touch()
    assert names(tmp_path) == ['a', 'b'] and (tmp_path / 'a').read_text() == '1'


def test_a_lock_file_goes_with_the_lock(tmp_path):
    with files.locked(tmp_path / 'a.lock', ValueError('busy')):
        assert names(tmp_path) == ['a.lock']
        refused = pytest.raises(ValueError, match='busy')
        with refused, files.locked(tmp_path / 'a.lock', ValueError('busy')):
            pass
    assert names(tmp_path) == []


@pytest.mark.parametrize('name', ['lock', '.'])
def test_a_lock_keeps_others_out_until_its_holder_is_gone(tmp_path, name):
    path, busy = tmp_path / name, ValueError('somebody is at it')
    code = (
        'import pathlib, sys, time\n'
        'from belle_jax import files\n'
        'with files.locked(pathlib.Path(sys.argv[1])):\n'
        '    print("held", flush=True)\n'
        '    time.sleep(60)\n'
    )
    command = [sys.executable, '-c', code, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as holder:
        assert holder.stdout and holder.stdout.readline() == b'held\n'
        with pytest.raises(ValueError, match='somebody is at it'), files.locked(path, busy):
            pass
        holder.send_signal(signal.SIGKILL)
    for waiting in (busy, None):
        with files.locked(path, waiting):
            pass


@pytest.mark.parametrize(
    ('content', 'reason'),
    [
        (b'{"a": ' + b'[' * 70 + b']' * 70 + b'}', 'nested too deeply'),
        (b'[' * 100_000, 'nested too deeply'),
        (b'{"a": "' + b'a' * json_files.JSON_MAX + b'"}', 'it has more than 33,554,432 bytes'),
        (b'null', 'does not hold a JSON object'),
        (b'[1]', 'does not hold a JSON object'),
        (b'{"a": "\xff"}', 'is not readable JSON'),
        (b'{"a": ' + b'9' * 5000 + b'}', 'is not readable JSON'),
    ],
)
def test_json_has_a_kind_a_depth_and_a_size(tmp_path, content, reason):
    path = tmp_path / 'a.json'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=reason) as error:
        json_files.read_json(path, 'mend it')
    assert str(error.value).startswith(str(path)) and str(error.value).endswith(': mend it.')
