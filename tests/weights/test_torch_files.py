"""PyTorch's files without PyTorch: read exactly, written readably, and never run."""

import builtins
import collections
import io
import os
import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest

from belle_jax.weights import pickles, torch_files
from belle_jax.weights.tensors import DTYPES, Planned, planned, proven

torch = pytest.importorskip('torch')

RNG = np.random.default_rng(6)
ZIPPED = pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'legacy'])


def numpy(tensor) -> np.ndarray:
    """A tensor's values; bfloat16 through its bits."""
    if tensor.dtype == torch.bfloat16:
        return tensor.contiguous().view(torch.int16).numpy().view(DTYPES['bfloat16'])
    return tensor.detach().numpy()


def check(path, expected):
    read = torch_files.read(path)
    assert list(read) == list(expected)
    for name, tensor in expected.items():
        value = numpy(tensor)
        assert read[name].array.dtype == value.dtype, name
        assert read[name].array.shape == value.shape, name
        assert read[name].array.tobytes() == value.tobytes(), name
    return read


@ZIPPED
@pytest.mark.parametrize(
    'dtype', ['float32', 'float16', 'bfloat16', 'float64', 'int64', 'int32', 'int8', 'bool']
)
def test_every_dtype_is_read_exactly(tmp_path, zipped, dtype):
    path = tmp_path / 'x.bin'
    values = {'a': torch.randn(5, 3).mul(9).to(getattr(torch, dtype)), 'b.c': torch.ones(())}
    torch.save(values, path, _use_new_zipfile_serialization=zipped)
    check(path, values)


@ZIPPED
def test_views_are_followed_and_shared_storages_stay_shared(tmp_path, zipped):
    base = torch.randn(6, 8)
    values = {
        'base': base,
        'transposed': base.T,
        'slice': base[1:5:2, 3:],
        'expanded': base[:, :1].expand(6, 4),
        'empty': torch.zeros(0, 3),
    }
    path = tmp_path / 'x.bin'
    torch.save(values, path, _use_new_zipfile_serialization=zipped)
    read = check(path, values)
    assert np.shares_memory(read['base'].array, read['transposed'].array)
    assert not read['base'].array.flags.writeable


@ZIPPED
@pytest.mark.parametrize('protocol', [2, 3, 4, 5])
def test_a_state_dict_with_parameters_and_metadata_is_read(tmp_path, zipped, protocol):
    module = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4))
    state = module.state_dict(keep_vars=True)
    assert isinstance(state['0.weight'], torch.nn.Parameter)
    assert isinstance(state, collections.OrderedDict)
    state._metadata[3] = {1: 2.5, 'none': None, 2**40: [True, (1, 'a')]}  # pyright: ignore[reportAttributeAccessIssue]
    path = tmp_path / 'x.bin'
    how = {'_use_new_zipfile_serialization': zipped, 'pickle_protocol': protocol}
    torch.save(state, path, **how)
    check(path, state)


@pytest.mark.parametrize('dtype', DTYPES)
@pytest.mark.parametrize('mmap', [False, True])
def test_torch_loads_what_is_written(tmp_path, dtype, mmap):
    values = RNG.normal(size=(300, 7)).astype(DTYPES[dtype])

    def blocks():
        for start in range(0, 300, 128):
            yield values[start : start + 128]

    path = tmp_path / 'pytorch_model.bin'
    whole = Planned('层.weight', values.shape, values.dtype, blocks)
    torch_files.write(path, [whole, planned('b', values[0]), planned('s', values[0, 0])])
    loaded = torch.load(path, weights_only=True, mmap=mmap)
    assert list(loaded) == ['层.weight', 'b', 's']
    for name, value in (('层.weight', values), ('b', values[0]), ('s', values[0, 0])):
        assert loaded[name].shape == value.shape
        assert numpy(loaded[name]).tobytes() == value.tobytes()
    check(path, loaded)


class Touch:
    """Touches a file when a pickle is run."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f'touch {self.path}',)


class Evaluate:
    def __reduce__(self):
        return builtins.eval, ('1 + 1',)


@ZIPPED
def test_a_malicious_pickle_is_refused_by_name_and_runs_nothing(tmp_path, zipped):
    mark, path = tmp_path / 'mark', tmp_path / 'evil.bin'
    for thing, name in ((Touch(mark), 'posix.system'), (Evaluate(), '__builtin__.eval')):
        content = {'a': torch.ones(2), 'b': thing}
        torch.save(content, path, _use_new_zipfile_serialization=zipped)
        with pytest.raises(ValueError, match=rf'evil.bin .* {name}, .* was not run'):
            torch_files.read(path)
    assert not mark.exists()
    torch.save({'a': torch.nn.Linear(1, 1)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r'torch\.nn\.modules\.linear\.Linear'):
        torch_files.read(path)


REBUILD = b'ctorch._utils\n_rebuild_tensor_v2\n'


@pytest.mark.parametrize(
    'program',
    [
        REBUILD + b'}\x8c\x08__code__K\x01sb.',  # attributes of an allowed function
        b'(' + REBUILD + b'N}\x8c\x04nameK\x01s\x86b.',  # the same as slots
        REBUILD + b')\x81.',  # an object of it
        b'ctorch\nFloatStorage\n)R.',  # a storage type as a function
        b'ccollections\nOrderedDict.__class__\n)R.',
        b'\x80\x04\x8c\x0bcollections\x8c\x15OrderedDict.__class__\x93.',
        b'\x82\x01.',  # the extension registry
        b'cbuiltins\ngetattr\n.',
        b'cbelle_jax.weights.torch_files\nos\n.',
        b'K\x01Q.',  # a storage that is none
        b'N.',
        b'',
    ],
)
def test_tricks_of_the_pickle_machine_are_refused(tmp_path, program):
    path = tmp_path / 'evil.bin'
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('evil/data.pkl', program)
    with pytest.raises(ValueError, match='evil.bin'):
        torch_files.read(path)


def rewrite(path, change):
    """Changes the entries of a zip file, keeping checksums right."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(path, 'w') as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def integer(value: int) -> bytes:
    return pickle.BININT + value.to_bytes(4, 'little')


@pytest.mark.parametrize(
    ('what', 'message'),
    [
        ('count', 'a of shape .* reaches beyond its storage of 500'),
        ('short', 'too short'),
        ('missing', "storage '0' is missing"),
        ('big-endian', 'big-endian'),
        ('two pickles', 'no single data.pkl'),
        ('compressed', 'compressed'),
    ],
)
def test_bounds_and_containers_are_checked(tmp_path, what, message):
    path = tmp_path / 'x.bin'
    torch_files.write(path, [planned('a', np.arange(1000, dtype=np.float32))])

    def change(entries):
        if what == 'count':
            entries['x/data.pkl'] = entries['x/data.pkl'].replace(integer(1000), integer(500), 1)
        elif what == 'short':
            entries['x/data/0'] = entries['x/data/0'][:-1]
        elif what == 'missing':
            del entries['x/data/0']
        elif what == 'big-endian':
            entries['x/byteorder'] = b'big'
        elif what == 'two pickles':
            entries['y/data.pkl'] = entries['x/data.pkl']

    rewrite(path, change)
    if what == 'compressed':
        with zipfile.ZipFile(path) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as archive:
            for name, content in entries.items():
                archive.writestr(name, content)
    with pytest.raises(ValueError, match=message) as error:
        torch_files.read(path)
    assert str(path) in str(error.value)


@ZIPPED
def test_what_is_no_dict_of_tensors_is_refused(tmp_path, zipped):
    path = tmp_path / 'x.bin'
    torch.save([torch.ones(1)], path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match='holds a list'):
        torch_files.read(path)
    torch.save({'step': 3}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=r"'step' is a int, not a tensor"):
        torch_files.read(path)


def memory(path) -> tuple[int, str]:
    """Bytes that reading a file takes at most, and the sentence with which it ends."""
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match='x.bin') as error:
            torch_files.read(path)
        return tracemalloc.get_traced_memory()[1], str(error.value)
    finally:
        tracemalloc.stop()


FAR = (0x7FFFFFFF).to_bytes(4, 'little')


@pytest.mark.parametrize(
    ('program', 'message'),
    [
        (b'\x80\x02]r' + FAR + b'0' * 400, 'the instruction POP'),
        (b'\x80\x02]r' + FAR + b'j' + FAR + b'\x86.', 'holds a tuple'),  # stored and recalled
        (b'\x80\x02]j' + FAR + b'.', 'recalls a value 2147483647'),
        (b'\x80\x04]\x8d' + FAR + bytes(4), 'truncated: 2147483647 bytes should follow byte 12'),
        (b'\x80\x04]\x95' + FAR + FAR + b'.', 'holds a list'),  # how much to read ahead
    ],
)
def test_a_small_pickle_takes_little_memory_whatever_it_says(tmp_path, program, message):
    path = tmp_path / 'x.bin'
    with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr('x/data.pkl', program)
    peak, said = memory(path)
    assert message in said
    assert peak < 1_000_000
    path.write_bytes(program)  # the format before
    peak, said = memory(path)
    assert peak < 1_000_000


@pytest.mark.parametrize('method', [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_pickle_that_inflates_is_refused_because_pytorch_compresses_nothing(tmp_path, method):
    path, program = tmp_path / 'x.bin', tmp_path / 'program'
    with program.open('wb') as file:
        file.truncate(20_000_000)
    for bomb in ('data.pkl', 'byteorder'):
        with zipfile.ZipFile(path, 'w', method) as archive:
            archive.write(program, f'x/{bomb}')
            if bomb != 'data.pkl':
                archive.writestr('x/data.pkl', b'}.')
        assert path.stat().st_size < 100_000
        peak, said = memory(path)
        assert f"'x/{bomb}' is compressed or encrypted, which PyTorch never does" in said
        assert peak < 1_000_000


def test_a_pickle_of_too_many_instructions_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(pickles, 'STEPS_MAX', 1000)
    path = tmp_path / 'x.bin'
    torch_files.write(path, [planned(f'{i}', np.ones(1, np.float32)) for i in range(25)])
    assert len(torch_files.read(path)) == 25
    torch_files.write(path, [planned(f'{i}', np.ones(1, np.float32)) for i in range(50)])
    assert 'more than 1,000 instructions' in memory(path)[1]


@ZIPPED
def test_truncation_and_random_damage_raise_nothing_but_a_sentence(tmp_path, zipped):
    path = tmp_path / 'x.bin'
    buffer = io.BytesIO()
    values = {'a': torch.randn(4, 4), 'b': torch.randn(3).half()}
    torch.save(values, buffer, _use_new_zipfile_serialization=zipped)
    whole = buffer.getvalue()
    for cut in (0, 3, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match='x.bin'):
            torch_files.read(path)
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[RNG.integers(len(whole))] = RNG.integers(256)
        path.write_bytes(damaged)
        try:
            for tensor in torch_files.read(path).values():
                tensor.array.tobytes()
        except ValueError as error:
            assert str(path) in str(error)


@pytest.mark.parametrize('sums', [True, False])
def test_a_flipped_bit_of_a_storage_is_found_where_it_is_read_whole(tmp_path, sums):
    path = tmp_path / 'x.bin'
    torch.serialization.set_crc32_options(sums)
    try:
        torch.save({'a': torch.arange(500.0), 'b': torch.arange(9.0)}, path)
    finally:
        torch.serialization.set_crc32_options(True)
    content = bytearray(path.read_bytes())
    content[content.index(np.float32(321).tobytes())] ^= 1
    path.write_bytes(content)
    read = torch_files.read(path)  # slices are not checked
    if not sums:  # PyTorch was told to write none
        assert not any(t.proof for t in read.values())
        return
    with proven([read['b']]):
        pass
    found = pytest.raises(ValueError, match=r'a in .*x\.bin is damaged.*--ignore_crc')
    with found, proven(read.values()):
        pass
