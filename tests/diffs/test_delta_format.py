"""The format of deltas: read and written from its description, and refused where it was bent."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import zstandard

from belle_jax.diffs.delta import apply, blocks, make
from delta_pairs import DTYPES, check_equal, load, pair, raw, refuses, torch


def order(theirs: bytes, itemsize: int) -> list[int]:
    """Of floating-point numbers: by the eight bits after the sign, equal ones as they stand."""
    numbers = [theirs[i : i + itemsize] for i in range(0, len(theirs), itemsize)]

    def exponent(i):
        return int.from_bytes(numbers[i], 'little') >> (8 * itemsize - 9) & 255

    return sorted(range(len(numbers)), key=exponent)


def unsorted(numbers: list, theirs: bytes, itemsize: int) -> list:
    places = dict(zip(order(theirs, itemsize), numbers, strict=True))
    return [places[i] for i in range(len(numbers))]


def read_by_description(delta: Path, base: dict) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """Tensors and files of a delta as its description says, in another program's words."""
    manifest = json.loads((delta / 'delta.json').read_text())
    stream = b''
    for data in manifest['data']:
        content = (delta / data['name']).read_bytes()
        assert len(content) == data['size']
        assert hashlib.sha256(content).hexdigest() == data['sha256']
        stream += content

    def take(entry, itemsize, against=None, floating=False):
        nonlocal stream
        content = b''
        for size in entry['blocks']:
            block = zstandard.ZstdDecompressor().decompress(stream[:size])
            stream, count = stream[size:], len(block) // itemsize
            numbers = [block[i::count] for i in range(count)]  # from planes to numbers
            if against is not None:
                here = against[len(content) : len(content) + len(block)].ljust(len(block), b'\0')
                numbers = unsorted(numbers, here, itemsize) if floating else numbers
                block = bytes(a ^ b for a, b in zip(b''.join(numbers), here, strict=True))
            else:
                block = b''.join(numbers)
            assert len(content) % manifest['block'] == 0
            content += block
        return content

    tensors, files = {}, {}
    for t in manifest['tensors']:
        dtype = DTYPES[t['dtype']]
        against = None
        floating = t['dtype'] != 'I64'
        if t['base']:
            other = base[t['base']['name']]
            assert [DTYPES[t['base']['dtype']], t['base']['shape']] == [
                other.dtype,
                list(other.shape),
            ]
            assert hashlib.sha256(raw(other)).hexdigest() == t['base']['sha256']
            against = raw(other.to(dtype))
        tensors[t['name']] = take(t, dtype.itemsize, against, floating)
        assert hashlib.sha256(tensors[t['name']]).hexdigest() == t['sha256']
    for f in manifest['files']:
        if f['blocks'] is not None:
            files[f['name']] = take(f, 1)
    assert not stream
    own = {key: value for key, value in manifest.items() if key != 'sha256'}
    text = json.dumps(own, sort_keys=True, separators=(',', ':'))
    assert manifest['sha256'] == hashlib.sha256(text.encode()).hexdigest()
    return tensors, files


def write_by_description(delta: Path, base: dict, tuned: dict, block: int = 1 << 10) -> None:
    """A delta without any of our code: one tensor a file, the last one empty."""
    delta.mkdir()
    data, entries = [], []
    for number, (name, tensor) in enumerate(tuned.items()):
        content, itemsize = raw(tensor), tensor.dtype.itemsize
        against = raw(base[name].to(tensor.dtype))
        assert len(against) == len(content)
        xor = bytes(a ^ b for a, b in zip(content, against, strict=True))
        frames = []
        for start in range(0, len(xor), block):
            part, other = xor[start : start + block], against[start : start + block]
            places = order(other, itemsize)
            if not tensor.is_floating_point():
                places.sort()
            part = b''.join(part[i * itemsize : (i + 1) * itemsize] for i in places)
            planes = b''.join(part[j::itemsize] for j in range(itemsize))
            frames.append(zstandard.ZstdCompressor(1, write_checksum=True).compress(planes))
        path = delta / f'part{number}'
        path.write_bytes(b''.join(frames))
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        data.append({'name': path.name, 'size': path.stat().st_size, 'sha256': digest})
        kinds = {dtype: kind for kind, dtype in DTYPES.items()}
        other = {
            'name': name,
            'dtype': kinds[base[name].dtype],
            'shape': list(base[name].shape),
            'sha256': hashlib.sha256(raw(base[name])).hexdigest(),
        }
        entries.append(
            {
                'name': name,
                'dtype': kinds[tensor.dtype],
                'shape': list(tensor.shape),
                'sha256': hashlib.sha256(content).hexdigest(),
                'base': other,
                'blocks': [len(f) for f in frames],
            }
        )
    manifest = {'format': 'belle-jax-delta', 'version': 1, 'base': 'llama', 'block': block}
    seal(delta, manifest | {'data': data, 'tensors': entries, 'files': []})


def seal(delta: Path, manifest: dict) -> None:
    """Writes a manifest with the right checksum of itself."""
    manifest.pop('sha256', None)
    text = json.dumps(manifest, sort_keys=True, separators=(',', ':'))
    manifest['sha256'] = hashlib.sha256(text.encode()).hexdigest()
    (delta / 'delta.json').write_text(json.dumps(manifest, indent=1))


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float32])
def test_a_delta_is_what_its_description_says(tmp_path, monkeypatch, dtype):
    monkeypatch.setattr(blocks, 'BLOCK', 1024)
    base, directory, tuned = pair(tmp_path, dtype)
    make(base, directory, tmp_path / 'delta', max_shard_size=2000)
    tensors, files = read_by_description(tmp_path / 'delta', load(base))
    assert tensors == {name: raw(t) for name, t in tuned.items()}
    assert files == {'config.json': b'{"model_type": "llama"}'}


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float32])
def test_a_delta_written_by_description_is_applied(tmp_path, dtype):
    base, _, tuned = pair(tmp_path, dtype)
    write_by_description(tmp_path / 'delta', load(base), tuned)
    apply(base, tmp_path / 'delta', tmp_path / 'out')
    check_equal(tmp_path / 'out', tuned)


def test_a_delta_made_to_harm_is_refused(tmp_path):
    base, tuned, _ = pair(tmp_path)
    make(base, tuned, tmp_path / 'delta')
    path = tmp_path / 'delta' / 'delta.json'
    good = path.read_text()

    def harm(change, message):
        manifest = json.loads(good)
        change(manifest)
        seal(tmp_path / 'delta', manifest)
        refuses(tmp_path, base, message)

    for name in ('../x.json', 'x.py', 'model.safetensors.index.json', 'model.bin', '.json', ''):
        harm(lambda m, name=name: m['files'][0].update(name=name), 'is damaged')
    for name in ('../delta-00001.zst', '/etc/passwd', None):
        harm(lambda m, name=name: m['data'][0].update(name=name), 'is damaged')
    harm(lambda m: m['tensors'][0]['blocks'].append(3), 'has 2 blocks')
    harm(lambda m: m['tensors'][0]['blocks'].__setitem__(0, -1), '-1 is not a natural number')
    harm(lambda m: m['tensors'][0]['blocks'].__setitem__(0, 10**9), 'is in none of its files')
    harm(lambda m: m['tensors'].pop(), 'hold more than it lists')
    harm(lambda m: m['tensors'][1].update(name=m['tensors'][0]['name']), 'a name occurs twice')
    harm(lambda m: m['tensors'][0].update(dtype='O'), "'O' is not known")
    harm(lambda m: m['tensors'][0].update(shape=[1, 2, 3]), 'blocks|compared')
    harm(lambda m: m.update(block=2**40), 'blocks of')
    harm(lambda m: m.update(version=2), 'version 2')
    harm(lambda m: m.pop('tensors'), 'a field is amiss')


def test_a_block_that_unpacks_to_something_else_ends_the_work(tmp_path):
    base, _, tuned = pair(tmp_path)
    delta = tmp_path / 'delta'
    for number, content in enumerate((b'\0' * 10**6, b'\0' * 1152)):  # a bomb; other numbers
        shutil.rmtree(delta, ignore_errors=True)
        write_by_description(delta, load(base), tuned, block=1 << 12)
        manifest = json.loads((delta / 'delta.json').read_text())
        entry = next(t for t in manifest['tensors'] if t['name'].endswith('q_proj.weight'))
        data = manifest['data'][manifest['tensors'].index(entry)]
        frame = zstandard.ZstdCompressor(write_checksum=True).compress(content)
        (delta / data['name']).write_bytes(frame)
        data.update(size=len(frame), sha256=hashlib.sha256(frame).hexdigest())
        entry['blocks'] = [len(frame)]
        seal(delta, manifest)
        message = ('another size than it should', 'q_proj.weight came out with another SHA-256')
        with pytest.raises(ValueError, match=message[number]):
            apply(base, delta, tmp_path / 'out')
        assert {p.name for p in tmp_path.iterdir()} == {'base', 'tuned', 'delta'}
