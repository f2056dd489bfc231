"""What kind of file holds rows, told from its first bytes and never from its name."""

import json
import re

HEAD = 1 << 16  # bytes that are looked at
GZIP = b'\x1f\x8b'
LISTS = 'data rows examples records items samples train'.split()  # of rows, in an object
LINES = '("rows.jsonl", orient="records", lines=True, force_ascii=False)'
PANDAS = f'convert it with pandas.{{}}(PATH).to_json{LINES}'
ARROW = 'convert it: pyarrow.parquet.write_table(pyarrow.ipc.{}(PATH).read_all(), "rows.parquet")'
ICONV = 'convert it with iconv -f UTF-16 -t UTF-8 PATH > rows.jsonl'
UNPACK = 'unpack it and give the file inside'
REFUSED = (  # how a file begins, what it is, what to do; the first one that fits is told
    (b'PK\x03\x04', 'a zip archive', UNPACK),
    (b'\xd0\xcf\x11\xe0', 'an old Excel workbook (xls)', PANDAS.format('read_excel')),
    (b'ARROW1', 'an Arrow file', ARROW.format('open_file')),
    (b'\xff\xff\xff\xff', 'an Arrow stream', ARROW.format('open_stream')),
    (b'\xff\xfe', 'UTF-16 text', ICONV),
    (b'\xfe\xff', 'UTF-16 text', ICONV),
    (b'BZh', 'packed with bzip2', UNPACK),
    (b'\xfd7zXZ', 'packed with xz', UNPACK),
    (b'\x28\xb5\x2f\xfd', 'packed with zstd', UNPACK),
    (GZIP, 'packed with gzip twice', UNPACK),
)
CELL = r'"?[^"{}\[\]:,;\t]{1,64}"?'
MEMBER = re.compile(r'[\s,{]*"([^"\\]*)"\s*:\s*')
LIST = re.compile(r'\[\s*[{\]]')
HEADER = re.compile(rf'{CELL}([,;\t]{CELL})+\r?')


def identify(head: bytes) -> str:
    """The container of rows that a file is.

    Args:
        head: How its content begins, unpacked, without the mark of UTF-8.
    Returns:
        'Parquet', 'JSON array', 'JSON object' (a list of rows in one of `LISTS`), 'JSON objects'
        (each over several lines) or 'JSON lines'.
    Raises:
        ValueError: it is a kind of file that is not read; the message is what to say of it.
    """
    for begin, what, remedy in REFUSED:
        if head.startswith(begin):
            if begin.startswith(b'PK') and b'xl/' in head:
                what, remedy = 'an Excel workbook (xlsx)', PANDAS.format('read_excel')
            raise ValueError(f'is {what}: {remedy}.')
    if head.startswith(b'PAR1'):
        return 'Parquet'
    head = head.lstrip()
    if head.startswith(b'['):
        return 'JSON array'
    text = head.decode('utf-8', 'replace')
    first, _, rest = text.partition('\n')
    if HEADER.fullmatch(first):
        raise ValueError(f'looks like a CSV or TSV table: {PANDAS.format("read_csv")}.')
    if rest.strip() and _is_json(first):
        return 'JSON lines'
    if _holds_rows(text):
        return 'JSON object'
    return 'JSON objects' if first.strip() == '{' else 'JSON lines'


def _is_json(line: str) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _holds_rows(text: str) -> bool:
    """Whether an object that begins here has a list of objects in one of `LISTS`."""
    at = 0
    while member := MEMBER.match(text, at):
        at = member.end()
        if member[1] in LISTS and LIST.match(text, at):
            return True
        try:
            _, at = json.JSONDecoder().raw_decode(text, at)
        except (ValueError, RecursionError):
            break
    return False
