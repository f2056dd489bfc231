"""BELLE's XOR diffs, against the algorithm as described, and with everything that goes wrong."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from belle_jax.diffs import xor
from belle_jax.diffs.xor import blocks, checksums, cipher
from belle_jax.weights import safetensors, torch_files
from belle_jax.weights.tensors import planned

ROOT = Path(__file__).resolve().parents[2]
MIB = 2**20
RNG = np.random.default_rng(5)


def reference(payload: bytes, key: bytes, chunk: int = 10 * MIB) -> bytes:
    """As described: chunks in lock-step, a short one of the key repeated, then its start again."""
    out, place = [], 0
    for start in range(0, len(payload), chunk):
        part = payload[start : start + chunk]
        stream = key[place : place + chunk]
        place += chunk
        if not stream:
            stream, place = key[:chunk], chunk
        stream = (stream * (len(part) // len(stream) + 1))[: len(part)]
        out.append(bytes(np.frombuffer(part, np.uint8) ^ np.frombuffer(stream, np.uint8)))
    return b''.join(out)


def write_encrypted(directory: Path, name: str, plain: bytes, key: bytes) -> Path:
    """What BELLE publishes."""
    sha256 = hashlib.sha256(plain)
    path = directory / f'{name}.{sha256.hexdigest()}.enc'
    directory.mkdir(exist_ok=True)
    path.write_bytes(sha256.digest() + reference(plain, key))
    return path


def files(directory: Path) -> dict[str, bytes]:
    """Contents by name, without the manifest."""
    found = {p.name: p.read_bytes() for p in directory.iterdir()}
    found.pop('xor_manifest.json', None)
    return found


@pytest.mark.parametrize(
    ('payload', 'key'),
    [
        (11 * MIB, 1),
        (7 * MIB + 3, 25 * MIB),
        (25 * MIB, 25 * MIB),
        (12 * MIB + 7, 12 * MIB + 7),
        (45 * MIB + 1, 12 * MIB + 7),
        (33 * MIB, 10 * MIB),
        (30 * MIB, 20 * MIB),
        (21 * MIB + 5, 3 * MIB - 1),
        (0, 5),
        (1, 25 * MIB),
    ],
)
def test_files_are_those_of_the_description_in_both_directions(tmp_path, payload, key):
    plain, secret = RNG.bytes(payload), RNG.bytes(key)
    (tmp_path / 'w.dat').write_bytes(plain)
    (tmp_path / 'key').write_bytes(secret)
    xor.encrypt(tmp_path / 'w.dat', tmp_path / 'key', tmp_path / 'ours')
    published = write_encrypted(tmp_path / 'theirs', 'w.dat', plain, secret)
    assert files(tmp_path / 'ours') == files(tmp_path / 'theirs')
    xor.decrypt(published, tmp_path / 'key', tmp_path / 'back')
    assert files(tmp_path / 'back') == {'w.dat': plain}


@pytest.mark.parametrize('key', [1, 7, 63, 64, 65, 128, 200])
def test_small_chunks_agree_with_the_description_at_every_length(tmp_path, key, monkeypatch):
    monkeypatch.setattr(cipher, 'CHUNK', 64)
    secret = RNG.bytes(key)
    (tmp_path / 'key').write_bytes(secret)
    with cipher.Key(tmp_path / 'key') as stream:
        for size in [*range(140), 300, 1000]:
            plain = RNG.bytes(size)
            whole = np.empty(size, np.uint8)
            stream.xor(np.frombuffer(plain, np.uint8), 0, whole)
            expected = reference(plain, secret, 64)
            assert whole.tobytes() == expected
            for start in (1, 63, 70, size // 2):
                rest = np.empty(len(expected[start:]), np.uint8)
                stream.xor(np.frombuffer(plain[start:], np.uint8), start, rest)
                assert rest.tobytes() == expected[start:]


def torch_file(path: Path) -> bytes:
    arrays = [RNG.normal(size=(9, i + 1)).astype(np.float32) for i in range(40)]
    torch_files.write(path, [planned(f'layers.{i}.weight', a) for i, a in enumerate(arrays)])
    return path.read_bytes()


def safetensors_file(path: Path) -> bytes:
    safetensors.write(path, [planned('a', RNG.normal(size=(50, 9)).astype(np.float32))])
    return path.read_bytes()


@pytest.fixture
def model(tmp_path) -> dict[str, bytes]:
    """A directory `model` with a file of each kind, and a `key` like a checkpoint."""
    path = tmp_path / 'model'
    path.mkdir()
    torch_file(path / 'pytorch_model.bin')
    safetensors_file(path / 'model.safetensors')
    (path / 'config.json').write_text(json.dumps({'名': list(range(20))}, ensure_ascii=False))
    (path / 'tokenizer.model').write_bytes(b'\n\x0e\n\x05<unk>\x15\0\0\0\0\x18\x02' + RNG.bytes(99))
    (path / 'merges.txt').write_text('a b\n' * 50)
    (tmp_path / 'key').write_bytes(b'PK\x03\x04' + RNG.bytes(3 * MIB))
    return files(path)


def encrypted_model(tmp_path) -> Path:
    xor.encrypt(tmp_path / 'model', tmp_path / 'key', tmp_path / 'enc')
    return tmp_path / 'enc'


def named(directory: Path, name: str) -> Path:
    return next(p for p in directory.iterdir() if p.name.startswith(name))


def test_a_directory_goes_there_and_back_and_what_is_no_weight_is_named(tmp_path, model, capsys):
    source = tmp_path / 'model'
    for name in ('README.md', 'LICENSE', 'License.txt', '.gitattributes', 'card.MD'):
        (source / name).write_text('x')
    (source / 'runs').mkdir()
    enc = encrypted_model(tmp_path)
    others = 'Passed over: .gitattributes, LICENSE, License.txt, README.md, card.MD, runs\n'
    assert others in capsys.readouterr().out
    manifest = json.loads((enc / 'xor_manifest.json').read_text())['files']
    assert manifest.keys() == files(enc).keys()
    assert {entry['source'] for entry in manifest.values()} == model.keys()
    for name, content in files(enc).items():
        plain = model[manifest[name]['source']]
        assert manifest[name] == {
            'size': len(content),
            'sha256': hashlib.sha256(content).hexdigest(),
            'md5': hashlib.md5(content).hexdigest(),
            'source': name.rsplit('.', 2)[0],
        }
        assert name.split('.')[-2] == hashlib.sha256(plain).hexdigest()
    (enc / 'README.md').write_text('card')
    made = xor.decrypt(enc, tmp_path / 'key', tmp_path / 'out')
    assert made == tmp_path / 'out' / 'xor_manifest.json'
    assert 'Passed over: README.md\n' in capsys.readouterr().out
    assert files(tmp_path / 'out') == model
    entry = json.loads(made.read_text())['files']['merges.txt']
    assert entry['source'] == named(enc, 'merges.txt').name
    assert entry['md5'] == hashlib.md5(model['merges.txt']).hexdigest()


def test_odd_names_come_back_and_dangerous_ones_are_refused(tmp_path, model):
    source = tmp_path / 'odd'
    source.mkdir()
    names = ['a b.dat', '贝壳.dat', '-rf', '"q\'.dat', 'two\nlines', '$(x);*', 'x.enc.dat', 'é']
    names.append(os.fsdecode(b'latin\xe9'))
    for name in names:
        (source / name).write_bytes(RNG.bytes(50))
    xor.encrypt(source, tmp_path / 'key', tmp_path / 'enc')
    xor.decrypt(tmp_path / 'enc', tmp_path / 'key', tmp_path / 'out')
    assert files(tmp_path / 'out') == files(source)
    assert xor.verify(tmp_path / 'out') == 'Files checked: 9; all are right.'
    key = (tmp_path / 'key').read_bytes()
    for name in ('..', '.', 'a\\b', 'xor_manifest.json', 'n' * 240):
        shutil.rmtree(tmp_path / 'bad', ignore_errors=True)
        plain = b'x'
        if len(name) > 200:
            (source / name).write_bytes(plain)
            with pytest.raises(ValueError, match='rename it'):
                xor.encrypt(source / name, tmp_path / 'key', tmp_path / 'bad')
        else:
            write_encrypted(tmp_path / 'bad', name, plain, key)
            with pytest.raises(ValueError, match='refused|rename it'):
                xor.decrypt(tmp_path / 'bad', tmp_path / 'key', tmp_path / 'out2')
        assert not (tmp_path / 'out2').exists()


def check_refused(
    tmp_path, message, error: type[Exception] = ValueError, source: str | Path = 'enc', **flags
) -> str:
    with pytest.raises(error, match=message) as caught:
        xor.decrypt(tmp_path / source, tmp_path / 'key', tmp_path / 'out', **flags)
    assert '\n' not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    'name', ['pytorch_model.bin', 'model.safetensors', 'config.json', 'tokenizer.model']
)
def test_a_wrong_key_is_noticed_before_anything_is_written(tmp_path, model, name, monkeypatch):
    enc = encrypted_model(tmp_path)
    right = (tmp_path / 'key').read_bytes()
    (tmp_path / 'key').write_bytes(RNG.bytes(len(right)))
    path = named(enc, name)
    with monkeypatch.context() as patch:
        patch.setattr(cipher, 'decrypt', None)
        message = check_refused(tmp_path, 'does not begin as its name says.', source=path)
    assert str(tmp_path / 'key') in message
    assert path.name in message
    assert not (tmp_path / 'out').exists()
    message = check_refused(tmp_path, 'does not decrypt to', source=path, check_kind=False)
    assert 'most likely not what it was made with' in message
    assert not (tmp_path / 'out').exists()


def test_a_wrong_key_that_begins_like_the_right_one_is_noticed_too(tmp_path, model):
    """All of Meta's checkpoints begin with the same bytes: their names and first opcodes."""
    path = named(encrypted_model(tmp_path), 'pytorch_model.bin')
    key = (tmp_path / 'key').read_bytes()
    (tmp_path / 'key').write_bytes(key[:200] + RNG.bytes(len(key) - 200))
    check_refused(tmp_path, 'does not begin as its name says', source=path)
    assert not (tmp_path / 'out').exists()


def test_a_file_made_with_another_key_than_the_others_is_named(tmp_path, model):
    enc = encrypted_model(tmp_path)
    named(enc, 'config.json').unlink()
    published = write_encrypted(enc, 'config.json', model['config.json'], RNG.bytes(999))
    message = check_refused(tmp_path, 'was made with another key, or is damaged: .* fits other')
    assert published.name in message
    assert 'pytorch_model' not in message
    assert not (tmp_path / 'out').exists()


def test_files_of_other_kinds_than_their_names_say_are_restored_when_told(tmp_path, model, capsys):
    (tmp_path / 'tok512.bin').write_bytes(RNG.bytes(500))
    xor.encrypt(tmp_path / 'tok512.bin', tmp_path / 'key', tmp_path / 'enc')
    assert 'tok512.bin is not a .bin file as others are' in capsys.readouterr().out
    check_refused(tmp_path, 'add --nocheck_kind')
    xor.decrypt(tmp_path / 'enc', tmp_path / 'key', tmp_path / 'out', check_kind=False)
    assert (tmp_path / 'out' / 'tok512.bin').read_bytes() == (tmp_path / 'tok512.bin').read_bytes()


def test_torchs_own_files_are_known(tmp_path, model):
    torch = pytest.importorskip('torch')
    for zipped in (True, False):
        path = tmp_path / 'torch.pth'
        state = {f'层.{i}': torch.randn(i, 3) for i in range(99)}
        torch.save(state, path, _use_new_zipfile_serialization=zipped)
        write_encrypted(tmp_path / 'enc', path.name, path.read_bytes(), b'some key')
        (tmp_path / 'key').write_bytes(b'some key')
        xor.decrypt(tmp_path / 'enc', tmp_path / 'key', tmp_path / 'out')
        assert files(tmp_path / 'out') == {'torch.pth': path.read_bytes()}
        shutil.rmtree(tmp_path / 'enc')
        shutil.rmtree(tmp_path / 'out')


def test_real_tokenizers_are_known(tmp_path, shared):
    (tmp_path / 'key').write_bytes(RNG.bytes(1000))
    for name in ('llama_tokenizer.model', 'llama_tokenizer.json', 'chinese_sp.model'):
        xor.encrypt(shared / 'data' / 'tokenizers' / name, tmp_path / 'key', tmp_path / 'enc')
    xor.decrypt(tmp_path / 'enc', tmp_path / 'key', tmp_path / 'out')
    assert len(files(tmp_path / 'out')) == 3


@pytest.mark.parametrize(
    ('name', 'cut', 'message'),
    [
        ('merges.txt', 20, 'is cut short: it has 20 bytes and begins with a checksum of 32'),
        ('merges.txt', 31, 'is cut short'),
        ('merges.txt', 0, 'is cut short'),
        ('merges.txt', -1, 'does not decrypt to .* or it is damaged'),
        ('pytorch_model.bin', -50, 'right beginning and a wrong end: .* is cut short'),
        ('model.safetensors', -1, 'right beginning and a wrong end'),
        ('config.json', -1, 'right beginning and a wrong end'),
    ],
)
def test_a_truncated_file_is_told(tmp_path, model, name, cut, message):
    path = named(encrypted_model(tmp_path), name)
    os.truncate(path, cut if cut >= 0 else path.stat().st_size + cut)
    assert path.name in check_refused(tmp_path, message, source=path)
    assert not (tmp_path / 'out').exists()


def flip(path: Path, place: int) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_damage_is_told_from_a_wrong_key_and_the_other_files_are_restored(tmp_path, model):
    enc = encrypted_model(tmp_path)
    flip(named(enc, 'model.safetensors'), 1000)
    message = check_refused(tmp_path, 'the key is most likely the right one')
    assert 'model.safetensors' in message
    assert files(tmp_path / 'out') == {k: v for k, v in model.items() if k != 'model.safetensors'}
    assert len(checksums.read_manifest(tmp_path / 'out')) == 4


def test_a_header_that_is_not_the_names_is_told(tmp_path, model):
    enc = encrypted_model(tmp_path)
    flip(named(enc, 'config.json'), 3)
    check_refused(tmp_path, 'config.json.*is damaged or renamed')
    named(enc, 'config.json').rename(enc / 'config.json.enc')
    check_refused(tmp_path, 'config.json.enc is not named <name>.<64 hexadecimal digits>.enc')
    check_refused(tmp_path, 'is not named', source='model/config.json')
    assert not (tmp_path / 'out').exists()


def test_hex_in_capitals_is_read_and_two_files_for_one_name_are_refused(tmp_path, model):
    key = (tmp_path / 'key').read_bytes()
    path = write_encrypted(tmp_path / 'enc', 'a.txt', b'one', key)
    path.rename(path.with_name(f'a.txt.{path.name[6:70].upper()}.enc'))
    xor.decrypt(tmp_path / 'enc', tmp_path / 'key', tmp_path / 'out')
    assert files(tmp_path / 'out') == {'a.txt': b'one'}
    write_encrypted(tmp_path / 'enc', 'a.txt', b'two', key)
    check_refused(tmp_path, 'a.txt twice')


def test_what_is_there_and_something_else_is_never_overwritten(tmp_path, model):
    enc = encrypted_model(tmp_path)
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'config.json').write_text('mine')
    check_refused(tmp_path, 'config.json is there already and is something else')
    assert files(tmp_path / 'out') == model | {'config.json': b'mine'}
    (tmp_path / 'out' / 'config.json').unlink()
    xor.decrypt(enc, tmp_path / 'key', tmp_path / 'out')
    assert files(tmp_path / 'out') == model


def test_complete_files_are_not_done_again(tmp_path, model, monkeypatch, capsys):
    enc = encrypted_model(tmp_path)
    real, seen = cipher.decrypt, []

    def decrypt(encrypted, *others):
        if len(seen) == 2:
            raise OSError(errno.ENOSPC, 'No space left on device')
        seen.append(encrypted.name)
        return real(encrypted, *others)

    monkeypatch.setattr(cipher, 'decrypt', decrypt)
    check_refused(tmp_path, 'is full: the files that were complete are kept', OSError, threads=1)
    assert files(tmp_path / 'out').keys() == set(seen)
    assert checksums.read_manifest(tmp_path / 'out').keys() == set(seen)
    first = seen.copy()
    seen[:] = [None]  # makes room for one more
    check_refused(tmp_path, 'is full', OSError, threads=1)
    assert not set(first) & set(seen)
    monkeypatch.setattr(cipher, 'decrypt', lambda e, *o: (seen.append(e.name), real(e, *o))[1])
    capsys.readouterr()
    xor.decrypt(enc, tmp_path / 'key', tmp_path / 'out')
    assert 'Files restored: 2, there already: 3.' in capsys.readouterr().out
    assert sorted([*first, *seen[1:]]) == sorted(model)
    assert files(tmp_path / 'out') == model
    # Without a manifest, as after BELLE's program, what is complete is found by reading it.
    (tmp_path / 'out' / 'xor_manifest.json').unlink()
    monkeypatch.setattr(cipher, 'decrypt', None)
    xor.decrypt(enc, tmp_path / 'key', tmp_path / 'out')
    assert checksums.read_manifest(tmp_path / 'out').keys() == model.keys()


def test_encryption_goes_on_and_notices_another_key(tmp_path, model, monkeypatch, capsys):
    enc = encrypted_model(tmp_path)
    named(enc, 'merges.txt').unlink()
    with monkeypatch.context() as patch:
        real = cipher.encrypt
        seen = []
        patch.setattr(cipher, 'encrypt', lambda f, *o: (seen.append(f.name), real(f, *o))[1])
        encrypted_model(tmp_path)
        assert seen == ['merges.txt']
        assert 'Files encrypted: 1, there already: 4.' in capsys.readouterr().out
    (enc / 'xor_manifest.json').unlink()
    encrypted_model(tmp_path)
    assert len(checksums.read_manifest(enc)) == 5
    before = files(enc)
    (tmp_path / 'key').write_bytes(RNG.bytes(50))
    with pytest.raises(ValueError, match='made with another key or damaged: remove it'):
        encrypted_model(tmp_path)
    assert files(enc) == before


def test_a_kill_in_the_middle_leaves_no_half_file_and_the_next_run_ends_the_work(tmp_path, model):
    (tmp_path / 'model' / 'big.dat').write_bytes(RNG.bytes(9 * MIB))
    enc = encrypted_model(tmp_path)
    code = (
        'import os, signal, sys\n'
        'from belle_jax.diffs import xor\n'
        'from belle_jax.diffs.xor import blocks\n'
        'real = blocks.read\n'
        'def read(descriptor, out, start):\n'
        f'    if start > {5 * MIB}: os.kill(os.getpid(), signal.SIGKILL)\n'
        '    return real(descriptor, out, start)\n'
        'blocks.read = read\n'
        'xor.decrypt(*sys.argv[1:], threads=1, check_kind=False)\n'
    )
    arguments = [str(enc), str(tmp_path / 'key'), str(tmp_path / 'out')]
    killed = subprocess.run([sys.executable, '-c', code, *arguments], cwd=ROOT, check=False)
    assert killed.returncode == -signal.SIGKILL
    left = files(tmp_path / 'out')
    assert '.big.dat.partial' in left
    assert 'big.dat' not in left
    (tmp_path / 'out' / '.somebodys.partial').write_text('x')
    xor.decrypt(enc, tmp_path / 'key', tmp_path / 'out')
    expected = files(tmp_path / 'model') | {'.somebodys.partial': b'x'}
    assert files(tmp_path / 'out') == expected


def test_two_writers_do_not_meet(tmp_path, model):
    encrypted_model(tmp_path)
    (tmp_path / 'out').mkdir()
    descriptor = os.open(tmp_path / 'out', os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    check_refused(tmp_path, 'another process is writing to --target', OSError)
    os.close(descriptor)
    xor.decrypt(tmp_path / 'enc', tmp_path / 'key', tmp_path / 'out')
    assert files(tmp_path / 'out') == model


@pytest.mark.parametrize(
    ('code', 'message'),
    [
        (errno.ENOSPC, 'the disk of --target=.* is full: .*Make room first'),
        (errno.EDQUOT, 'is full'),
        (errno.EROFS, 'cannot be written .*: give a directory where you may write'),
    ],
)
def test_a_disk_that_refuses_is_one_sentence_and_no_half_file(
    tmp_path, model, code, message, monkeypatch
):
    enc = encrypted_model(tmp_path)
    real = cipher.whole_file

    class Full:
        """A file with room for fewer bytes than any has."""

        def __init__(self, file):
            self.file, self.room = file, 50

        def fileno(self):
            return self.file.fileno()

        def write(self, block):
            self.room -= len(block)
            if self.room < 0:
                raise OSError(code, os.strerror(code))
            return self.file.write(block)

    class Replacing:
        def __init__(self, path):
            self.within = real(path)

        def __enter__(self):
            return Full(self.within.__enter__())

        def __exit__(self, *error):
            return self.within.__exit__(*error)

    monkeypatch.setattr(cipher, 'whole_file', Replacing)
    check_refused(tmp_path, message, OSError)
    assert not (tmp_path / 'out').exists()
    shutil.rmtree(enc)
    with pytest.raises(OSError, match=message):
        encrypted_model(tmp_path)
    assert not enc.exists()


def test_room_and_permission_are_looked_for_before_the_work(tmp_path, model, monkeypatch):
    encrypted_model(tmp_path)
    with monkeypatch.context() as patch:
        usage = shutil._ntuple_diskusage(10, 5, 5)  # type: ignore[attr-defined]
        patch.setattr(shutil, 'disk_usage', lambda _: usage)
        check_refused(tmp_path, 'needs 46.54 kB and its disk has 5 bytes free: make room', OSError)

    def refused(self, *_, **__):
        raise PermissionError(errno.EACCES, 'Permission denied', str(self))

    monkeypatch.setattr(Path, 'mkdir', refused)
    check_refused(tmp_path, r'out cannot be written \(permission denied\)', OSError)
    assert not (tmp_path / 'out').exists()


def test_paths_that_cannot_be_meant_are_refused(tmp_path, model):
    enc = encrypted_model(tmp_path)
    (tmp_path / 'nothing').mkdir()
    check_refused(tmp_path, 'is not there', source='absent')
    check_refused(tmp_path, 'contains no file <name>', source='nothing')
    check_refused(tmp_path, 'contains no file <name>', source='model')
    for action in (xor.decrypt, xor.encrypt):
        source = enc if action is xor.decrypt else tmp_path / 'model'
        with pytest.raises(ValueError, match=r'\(of --target\) is what --source reads'):
            action(source, tmp_path / 'key', source)
        with pytest.raises(ValueError, match='is a file: give a directory'):
            action(source, tmp_path / 'key', tmp_path / 'key')
        with pytest.raises(ValueError, match='is --key too: leave it out'):
            action(source, named(source, 'config.json'), tmp_path / 'out')
        with pytest.raises(ValueError, match='is not a file: give the original'):
            action(source, tmp_path / 'absent', tmp_path / 'out')
        (tmp_path / 'empty').touch()
        with pytest.raises(ValueError, match='is empty: download it again'):
            action(source, tmp_path / 'empty', tmp_path / 'out')
    (tmp_path / 'at').mkdir()
    (tmp_path / 'at/config.json').symlink_to(tmp_path / 'key')
    with pytest.raises(ValueError, match=r'config\.json \(of --target\) is what --key reads'):
        xor.decrypt(enc, tmp_path / 'key', tmp_path / 'at')
    with pytest.raises(ValueError, match=r'\(of --target\) is what --md5 reads'):
        xor.encrypt(tmp_path / 'model', tmp_path / 'key', tmp_path, tmp_path / 'xor_manifest.json')
    with pytest.raises(ValueError, match='is encrypted already'):
        xor.encrypt(named(enc, 'config'), tmp_path / 'key', tmp_path / 'out')
    with pytest.raises(ValueError, match='contains no file to encrypt'):
        xor.encrypt(enc, tmp_path / 'key', tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_a_plaintext_that_changes_while_it_is_read_gets_no_name(tmp_path, model, monkeypatch):
    monkeypatch.setattr(cipher, 'digest', lambda *_: 'ab' * 32)
    with pytest.raises(ValueError, match='config.json changed while it was read'):
        xor.encrypt(tmp_path / 'model/config.json', tmp_path / 'key', tmp_path / 'enc')
    assert not (tmp_path / 'enc').exists()


def md5_list(path: Path, contents: dict[str, bytes]) -> Path:
    lines = [f'{hashlib.md5(c).hexdigest()}  ./{n}\n' for n, c in contents.items()]
    path.write_text(''.join(lines))
    return path


def test_published_lists_of_either_kind_are_checked(tmp_path, model):
    enc, out = encrypted_model(tmp_path), tmp_path / 'out'
    encrypted, plain = files(enc), model
    lists = [md5_list(tmp_path / 'e.txt', encrypted), md5_list(tmp_path / 'p.txt', plain)]
    for number, path in enumerate(lists):
        target = tmp_path / f'out{number}'
        xor.decrypt(enc, tmp_path / 'key', target, md5=path)
        assert files(target) == model
        xor.encrypt(tmp_path / 'model', tmp_path / 'key', enc, md5=path)
        xor.decrypt(named(enc, 'config'), tmp_path / 'key', target, md5=path)
        assert xor.verify(enc, tmp_path / 'key', md5=path).endswith('all are right.')
    wrong = named(enc, 'config.json').name
    path = md5_list(tmp_path / 'w.txt', encrypted | {wrong: b'x', 'absent.bin': b''})
    message = check_refused(tmp_path, f'{wrong} has the md5 .*, and --md5=.*w.txt has', md5=path)
    assert 'merges' not in message
    assert not out.exists()
    path = md5_list(tmp_path / 'w.txt', plain | {'config.json': b'x', 'absent.bin': b''})
    message = check_refused(tmp_path, 'config.json has the md5', md5=path)
    assert 'absent.bin is missing: --md5=' in message
    assert files(out) == model
    path = md5_list(tmp_path / 'w.txt', {'absent.bin': b''})
    check_refused(tmp_path, 'names nothing in .*enc', md5=path)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', 'lists nothing'),
        ('d41d8cd98f00b204e9800998ecf8427e  ./a\n\nmd5sum ./*\n', r'line 3, is not a line HASH'),
        ('d41d8cd98f00b204e9800998ecf8427  ./a\n', 'line 1'),
        (f'{"0" * 32}  a\n{"1" * 32}  b/a\n', 'line 2, has another hash for a'),
    ],
)
def test_lists_that_are_none_are_refused(tmp_path, text, message):
    path = tmp_path / 'list'
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        checksums.read_list(path)


def test_lists_are_read_as_md5sum_writes_them(tmp_path):
    path = tmp_path / 'list'
    path.write_text(f'\ufeff{"A" * 32}  ./a b.bin\n{"1" * 32} *x/y.bin\r\n\n', 'utf-8')
    assert checksums.read_list(path) == {'a b.bin': 'a' * 32, 'y.bin': '1' * 32}


def test_verify_names_every_file_that_is_not_as_it_was(tmp_path, model):
    enc, out = encrypted_model(tmp_path), tmp_path / 'out'
    xor.decrypt(enc, tmp_path / 'key', out)
    assert xor.verify(out) == 'Files checked: 5; all are right.'
    assert xor.verify(out / 'config.json') == 'Files checked: 1; all are right.'
    assert '5, 5 by decrypting;' in xor.verify(enc, tmp_path / 'key')
    flip(out / 'model.safetensors', 700)
    os.truncate(out / 'merges.txt', 9)
    (out / 'config.json').unlink()
    with pytest.raises(ValueError, match='config.json is missing') as caught:
        xor.verify(out)
    message = str(caught.value)
    assert 'model.safetensors is damaged: its SHA-256 is not that' in message
    assert 'merges.txt has 9 bytes, and' in message
    assert 'tokenizer' not in message
    flip(named(enc, 'merges.txt'), 60)
    before = files(enc)
    (enc / 'xor_manifest.json').unlink()
    with pytest.raises(ValueError, match=r'merges.txt.*does not decrypt'):
        xor.verify(enc, tmp_path / 'key')
    with pytest.raises(ValueError, match='no xor_manifest.json to compare with'):
        xor.verify(enc)
    with pytest.raises(ValueError, match='With --key, what the encrypted files become'):
        xor.verify(enc, md5=md5_list(tmp_path / 'p.txt', model))
    assert files(enc) == before


@pytest.mark.parametrize('text', ['{', '{"files": {"a": 3}}', '[]', '{"files": {"../a": {}}}'])
def test_a_damaged_manifest_is_told(tmp_path, model, text):
    encrypted_model(tmp_path)
    entry = '{"size": 1, "sha256": "", "md5": "", "source": ""}'
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'xor_manifest.json').write_text(text.replace('{}', entry))
    check_refused(tmp_path, 'xor_manifest.json (is damaged|names .* refused)')


def test_memory_does_not_grow_with_the_file(tmp_path):
    (tmp_path / 'key').write_bytes(RNG.bytes(11 * MIB))
    with (tmp_path / 'a.dat').open('wb') as file:
        file.truncate(64 * MIB)
    tracemalloc.start()
    try:
        xor.encrypt(tmp_path / 'a.dat', tmp_path / 'key', tmp_path / 'enc')
        xor.decrypt(tmp_path / 'enc', tmp_path / 'key', tmp_path / 'out')
        assert tracemalloc.get_traced_memory()[1] < 40 * MIB
    finally:
        tracemalloc.stop()


def program(*flags) -> subprocess.CompletedProcess:
    command = [sys.executable, '-m', 'convert.xor', *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_program_encrypts_decrypts_verifies_and_fails_with_one_sentence(tmp_path, model):
    key, enc, out = f'--key={tmp_path / "key"}', tmp_path / 'enc', tmp_path / 'out'
    done = program('encrypt', f'--source={tmp_path / "model"}', key, f'--target={enc}')
    assert (done.returncode, done.stderr) == (0, '')
    assert done.stdout.splitlines()[-1] == str(enc / 'xor_manifest.json')
    done = program('decrypt', f'--source={enc}', key, f'--target={out}', '--threads=4')
    assert (done.returncode, done.stderr) == (0, '')
    assert files(out) == model
    (tmp_path / 'key').write_bytes(b'another')
    done = program('verify', f'--source={enc}', key)
    assert done.returncode == 1
    assert done.stderr.startswith(f'convert.xor: {key} is not what')
    assert done.stderr.count('\n') == 1
    done = program('crypt', f'--source={enc}')
    assert done.returncode == 1
    assert 'python -m convert.xor encrypt|decrypt|verify' in done.stdout + done.stderr


def test_a_file_system_that_takes_no_direct_writing_after_all_is_written_to_otherwise(
    tmp_path, monkeypatch
):
    real, refused = os.write, []

    def write(descriptor, piece):
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & getattr(os, 'O_DIRECT', 0):
            refused.append(len(piece))
            raise OSError(errno.EINVAL, 'Invalid argument')
        return real(descriptor, piece)

    monkeypatch.setattr(os, 'write', write)
    content = RNG.bytes(9 * MIB + 5)
    with (tmp_path / 'file').open('wb') as file, blocks.writing(file) as sink:
        for start in range(0, len(content), 2 * MIB):
            sink(content[start : start + 2 * MIB])
    assert (tmp_path / 'file').read_bytes() == content
    assert len(refused) <= 1  # none where the file system said so at once
