"""The safetensors reader and writer, against the safetensors library."""

import json

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from belle_jax.weights import safetensors
from belle_jax.weights.tensors import DTYPES, Planned, planned

RNG = np.random.default_rng(5)


def arrays() -> dict[str, np.ndarray]:
    """One of each kind that occurs in models: dtypes, no axis, no entry, several axes."""
    return {
        'double': RNG.normal(size=(3,)),
        'table': RNG.normal(size=(7, 5)).astype(np.float32),
        'scalar': np.array(3.5, np.float32),
        'brain': RNG.normal(size=(2, 3, 4)).astype(ml_dtypes.bfloat16),
        'half': RNG.normal(size=(9,)).astype(np.float16),
        'empty': np.zeros((0, 4), np.float16),
        'ids': np.arange(6, dtype=np.int64),
        'mask': np.array([True, False]),
    }


def same(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def test_files_of_the_library_are_read_exactly(tmp_path):
    path, expected = tmp_path / 'x.safetensors', arrays()
    save_file(expected, path, metadata={'format': 'pt'})
    read = safetensors.read(path)
    assert read.keys() == expected.keys()
    for name, tensor in read.items():
        assert same(np.asarray(tensor.array), expected[name]), name
        assert tensor.file == path


@pytest.mark.parametrize('dtype', DTYPES)
def test_files_written_in_blocks_are_read_by_the_library(tmp_path, dtype):
    values = RNG.normal(size=(10, 6)).astype(DTYPES[dtype])

    def blocks():
        for start in range(0, 10, 3):
            yield values[start : start + 3]

    path = tmp_path / 'x.safetensors'
    tensors = [planned('a', values[::2]), Planned('b', (10, 6), DTYPES[dtype], blocks)]
    safetensors.write(path, tensors)
    read = load_file(path)
    assert same(read['a'], np.ascontiguousarray(values[::2]))
    assert same(read['b'], values)
    with safe_open(path, 'np') as file:
        assert file.metadata() == {'format': 'pt'}
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_failure_while_writing_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / 'x.safetensors'
    safetensors.write(path, [planned('a', np.ones(3, np.float32))])
    before = path.read_bytes()

    def blocks():
        yield np.zeros(2, np.float32)
        raise OSError('no space left on device')

    with pytest.raises(OSError, match='no space'):
        safetensors.write(path, [Planned('a', (4,), np.dtype(np.float32), blocks)])
    with pytest.raises(ValueError, match='a: 8 bytes came, its shape needs 16'):
        safetensors.write(
            path, [Planned('a', (4,), np.dtype('f4'), lambda: iter([np.zeros(2, 'f4')]))]
        )
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def craft(path, header, data=b'', length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes((len(text) if length is None else length).to_bytes(8, 'little') + text + data)
    return path


F4 = {'dtype': 'F32', 'shape': [1], 'data_offsets': [0, 4]}


@pytest.mark.parametrize(
    ('header', 'data', 'message'),
    [
        (b'{', b'', 'not readable JSON'),
        (b'[]', b'', 'not hold a JSON object'),
        (b'{"a":1,"a":2}', b'', 'twice'),
        ({'a': {'dtype': 'F32'}}, b'', 'header of a lacks'),
        ({'a': F4 | {'dtype': 'F8'}}, b'0000', "dtype 'F8'"),
        ({'a': F4 | {'shape': [-1]}}, b'0000', 'shape'),
        ({'a': F4 | {'shape': [True]}}, b'0000', 'shape'),
        ({'a': F4 | {'shape': [2]}}, b'0000', 'does not fill'),
        ({'a': F4}, b'000', 'truncated: a ends'),
        ({'a': F4, 'b': F4}, b'0000', 'b .byte 0. overlaps a'),
        ({'a': F4, 'b': F4 | {'data_offsets': [8, 12]}}, bytes(12), 'b .byte 8. does not follow a'),
        ({'a': F4}, b'00000', 'the end of the file .byte 5. does not follow a'),
    ],
)
def test_a_malformed_file_is_named_with_its_fault(tmp_path, header, data, message):
    path = craft(tmp_path / 'bad.safetensors', header, data)
    with pytest.raises(ValueError, match=message) as error:
        safetensors.read(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize('content', [b'', b'1234567', (1 << 40).to_bytes(8, 'little') + b'{}'])
def test_a_file_without_a_whole_header_is_named(tmp_path, content):
    path = tmp_path / 'bad.safetensors'
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r'bad.safetensors is not a complete safetensors file'):
        safetensors.read(path)


def test_random_damage_is_either_noticed_or_harmless(tmp_path):
    path = tmp_path / 'x.safetensors'
    save_file(arrays(), path)
    whole = path.read_bytes()
    header = int.from_bytes(whole[:8], 'little') + 8
    noticed = 0
    for _ in range(300):
        damaged = bytearray(whole)
        damaged[RNG.integers(header)] = RNG.integers(256)
        path.write_bytes(damaged)
        try:
            for tensor in safetensors.read(path).values():
                tensor.array.tobytes()
        except ValueError:
            noticed += 1
    assert noticed > 150
