"""Files of rows: what they are is told from their content, and what cannot be read by name."""

import gzip
import json
import tracemalloc

import pytest

from belle_jax.data import row_file
from belle_jax.data.records import BadRow
from belle_jax.data.row_file import RowFile

ROWS = [{'instruction': f'问{i}', 'output': f'答{i}'} for i in range(40)]
LINES = '\n'.join(json.dumps(row) for row in ROWS)
ARRAY = json.dumps(ROWS, indent=1)
WRAPPED = json.dumps({'version': {'of': [{}]}, 'data': ROWS, 'license': 'x'}, indent=1)
FORMS = {
    'JSON lines': LINES,
    'JSON array': ARRAY,
    'JSON object': WRAPPED,
    'JSON objects': '\n'.join(json.dumps(row, indent=2) for row in ROWS),
}


def rows(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return RowFile(path)


@pytest.mark.parametrize('name', FORMS)
def test_every_form_holds_the_same_rows_packed_or_not(tmp_path, name):
    plain = rows(tmp_path / 'plain.txt', FORMS[name])
    packed = rows(tmp_path / 'packed.txt', gzip.compress(FORMS[name].encode()))
    assert [row for _, row in plain] == [row for _, row in packed] == ROWS
    assert plain.container == name and packed.container == f'{name} in gzip'
    assert plain.done == packed.done == 1
    first, second = [where.rpartition(':')[2] for where, _ in RowFile(tmp_path / 'packed.txt')][:2]
    lines = FORMS[name].splitlines()
    for number, row in ((first, ROWS[0]), (second, ROWS[1])):
        text = '\n'.join(lines[int(number) - 1 :])
        assert json.JSONDecoder().raw_decode(text.strip())[0] == row


def test_progress_counts_the_bytes_of_the_packed_file(tmp_path, monkeypatch):
    monkeypatch.setattr(row_file, 'CHUNK', 1000)
    many = [{'n': i, 'text': str(hash((i, 'x')))} for i in range(60_000)]
    content = gzip.compress(json.dumps(many).encode())
    file = rows(tmp_path / 'a', content)
    done = [file.done for _ in file]
    assert done == sorted(done) and done[0] < 0.2 and 0.3 < done[len(done) // 2] < 0.7


@pytest.mark.parametrize('name', ['data', 'rows', 'examples'])
@pytest.mark.parametrize(
    'text', ['{{"{0}": [{1}]}}', '{{ "a" : "[",\n"b":1.5, "{0}" :[ {1} ]\n}}\n']
)
def test_a_wrapped_list_is_read_alike_wherever_it_is_cut(tmp_path, monkeypatch, name, text):
    text = text.format(name, '{"x": 1}, {"x": [2]}')
    for size in range(1, 80):
        monkeypatch.setattr(row_file, 'CHUNK', size)
        assert [row for _, row in rows(tmp_path / 'a', text)] == [{'x': 1}, {'x': [2]}]


def test_a_wrapped_list_is_never_held_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(row_file, 'CHUNK', 1 << 14)
    content = json.dumps({'data': [{'text': 'x' * 100}] * 30_000})
    file = rows(tmp_path / 'a', content)
    tracemalloc.start()
    assert sum(1 for _ in file) == 30_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(content) > 3_000_000 and peak < 1_000_000


@pytest.mark.parametrize(
    'row', [{'data': ['a', 'b']}, {'id': 1, 'messages': [{}]}, {'data': [{}], 'id': 1}]
)
def test_rows_that_hold_lists_are_rows(tmp_path, row):
    lines = '\n'.join([json.dumps(row)] * 2)
    file = rows(tmp_path / 'a', lines)
    assert [found for _, found in file] == [row] * 2 and file.container == 'JSON lines'


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('{"train": [{}],\n"data": [{}]}', r':2: there are rows in both "train" and "data"'),
        ('{"data": [{}]', ':1: the file ends inside'),
        ('{"data": [{}] "b": 1}', ':1: broken JSON .no comma'),
        ('{"data": [{}], "b" 1}', ':1: broken JSON .no colon'),
        ('{"data": [{}]}\n{"data": [{}]}', None),
        ('{\n"data": [{}]}\n{"data": [{}]}', ':3: broken JSON .text after the end'),
    ],
)
def test_a_wrapped_list_that_is_broken_has_an_address(tmp_path, text, message):
    file = rows(tmp_path / 'a', text)
    if message is None:
        assert [row for _, row in file] == [{'data': [{}]}] * 2
        return
    with pytest.raises(ValueError, match=message):
        list(file)


def xlsx(path):
    import zipfile

    with zipfile.ZipFile(path, 'w') as file:
        file.writestr('[Content_Types].xml', 'x')
        file.writestr('xl/workbook.xml', 'x')
    return path.read_bytes()


def arrow(path, kind):
    import pyarrow

    table = pyarrow.Table.from_pylist(ROWS)
    new = pyarrow.ipc.new_file if kind == 'file' else pyarrow.ipc.new_stream
    with new(str(path), table.schema) as writer:
        writer.write_table(table)
    return path.read_bytes()


@pytest.mark.parametrize(
    ('make', 'message'),
    [
        (lambda path: 'instruction,input,output\n问,,答\n', 'looks like a CSV .*pandas.read_csv'),
        (lambda path: '指令\t回答\n问\t答\n'.encode('gbk'), 'looks like a CSV or TSV table'),
        (lambda path: '\ufeff"question";"answer"\r\n"a";"b"', 'looks like a CSV or TSV table'),
        (xlsx, 'an Excel workbook .xlsx.: convert it with pandas.read_excel'),
        (lambda path: b'PK\x03\x04' + b'0' * 50, 'a zip archive: unpack it'),
        (lambda path: arrow(path, 'file'), 'an Arrow file: .*ipc.open_file'),
        (lambda path: arrow(path, 'stream'), 'an Arrow stream: .*ipc.open_stream'),
        (lambda path: LINES.encode('utf-16'), 'UTF-16 text: convert it with iconv -f UTF-16'),
        (lambda path: b'\xfe\xff' + ARRAY.encode('utf-16-be'), 'UTF-16 text: convert it with'),
        (lambda path: gzip.compress(gzip.compress(b'[]')), 'packed with gzip twice: unpack'),
        (lambda path: gzip.compress(b'PAR1' + b'0' * 50), 'Parquet packed with gzip: unpack'),
        (lambda path: gzip.compress(b' \n'), 'is empty'),
        (lambda path: gzip.compress(LINES.encode())[:40], 'damaged or was cut off'),
        (lambda path: b'\x1f\x8b' + b'0' * 50, 'damaged or was cut off'),
    ],
)
def test_a_file_that_is_not_read_is_named_with_what_to_do(tmp_path, make, message):
    path = tmp_path / 'rows.jsonl'
    content = make(path)
    with pytest.raises(ValueError, match=message) as error:
        list(rows(path, content))
    assert str(error.value).startswith(str(path)) and '\n' not in str(error.value)


@pytest.mark.parametrize(
    ('value', 'message'),
    [
        ('9' * 5000, '999999999…, of 5,000 digits, is no number'),
        ('-' + '9' * 5000, '-99999999…, of 5,001 digits, is no'),
        ('NaN', 'NaN is no number'),
        ('-Infinity', '-Infinity is no number'),
        ('1e999', '1e999 is no number'),
    ],
)
@pytest.mark.parametrize('size', [7, 1 << 20])
def test_a_number_that_cannot_be_had_is_a_bad_row_among_others(
    tmp_path, monkeypatch, value, message, size
):
    monkeypatch.setattr(row_file, 'CHUNK', size)
    lines = ['{"x": 1}', f'{{"x": [{value}]}}', '{"x": 2}']
    for number, text in ((2, '\n'.join(lines)), (3, '[\n' + ',\n'.join(lines) + ']')):
        path = tmp_path / 'a'
        (_, first), (where, bad), (_, last) = rows(path, text)
        assert first == {'x': 1} and last == {'x': 2} and where == f'{path}:{number}'
        assert isinstance(bad, BadRow) and bad.reason == 'broken JSON' and message in str(bad)


def test_a_row_of_parquet_that_python_cannot_hold_is_a_bad_row_among_others(tmp_path):
    import pyarrow
    import pyarrow.parquet

    raw = pyarrow.array([b'a', b'\xff', b'c'])
    text = pyarrow.StringArray.from_buffers(3, *raw.buffers()[1:])
    pyarrow.parquet.write_table(pyarrow.table({'text': text}), tmp_path / 'a')
    (_, first), (where, bad), (_, last) = RowFile(tmp_path / 'a')
    assert first == {'text': 'a'} and last == {'text': 'c'}
    assert isinstance(bad, BadRow) and where == f'{tmp_path}/a, row 2'


def test_a_row_that_no_model_reads_is_a_bad_row_among_others(tmp_path, monkeypatch):
    monkeypatch.setattr(row_file, 'ROW', 50)
    path = tmp_path / 'a'
    (_, first), (where, bad), (_, last) = rows(path, '{"x": 1}\n"' + 'b' * 99 + '"\n{"x": 2}\n')
    assert first == {'x': 1} and last == {'x': 2} and where == f'{path}:2'
    assert isinstance(bad, BadRow) and bad.reason == 'too long'


def test_a_gzip_that_unpacks_without_end_is_refused(tmp_path):
    path = tmp_path / 'a'
    path.write_bytes(gzip.compress(b'{"x": 1}\n' + b'\n' * 10_000_000))
    with pytest.raises(ValueError, match='a unpacks to more than 200 times its size'):
        list(RowFile(path))
