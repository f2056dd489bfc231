"""What kind of file holds rows, told from its first bytes and never from its name."""

import json
import re

HEAD = 1 << 16  # bytes that are looked at
GZIP = b'\x1f\x8b'
LISTS = (
    'data',
    'rows',
    'examples',
    'records',
    'items',
    'samples',
    'train',
)  # of rows, in an object
LINES = '("rows.jsonl", orient="records", lines=True, force_ascii=False)'
PANDAS = f'convert it with pandas.{{}}(PATH).to_json{LINES}'
DATASETS = (
    'convert it with datasets.Dataset.from_file(PATH).to_json("rows.jsonl", force_ascii=False)'
)
ICONV = 'convert it with iconv -f {0} -t UTF-8 PATH > rows.jsonl'
UNPACK = 'unpack it and give the file inside'
REFUSED = (  # how a file begins, what it is, what to do; the first one that fits is told
    (b'PK\x03\x04', 'a zip archive', UNPACK),
    (b'\xd0\xcf\x11\xe0', 'an old Excel workbook (xls)', PANDAS.format('read_excel')),
    (b'ARROW1', 'an Arrow file', DATASETS),
    (b'\xff\xff\xff\xff', 'an Arrow stream', DATASETS),
    (b'\xff\xfe\0\0', 'UTF-32 text', ICONV.format('UTF-32')),
    (b'\xff\xfe', 'UTF-16 text', ICONV.format('UTF-16')),
    (b'\xfe\xff', 'UTF-16 text', ICONV.format('UTF-16')),
    (b'{\0', 'UTF-16 text without a mark', ICONV.format('UTF-16LE')),
    (b'[\0', 'UTF-16 text without a mark', ICONV.format('UTF-16LE')),
    (b'\0{', 'UTF-16 text without a mark', ICONV.format('UTF-16BE')),
    (b'\0[', 'UTF-16 text without a mark', ICONV.format('UTF-16BE')),
    (b'BZh', 'packed with bzip2', UNPACK),
    (b'\xfd7zXZ', 'packed with xz', UNPACK),
    (b'\x28\xb5\x2f\xfd', 'packed with zstd', UNPACK),
    (b'7z\xbc\xaf', 'a 7z archive', UNPACK),
    (GZIP, 'packed with gzip twice', UNPACK),
)
CELL = r'"?[^"{}\[\]:,;\t]{1,64}"?'
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
    if head[257:262] == b'ustar':
        raise ValueError(f'is a tar archive: {UNPACK}.')
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
    decode, at = json.JSONDecoder().raw_decode, 1
    try:
        while text.startswith('"', at := _space(text, at)):
            name, at = decode(text, at)
            at = _space(text, text.index(':', at) + 1)
            if name in LISTS and text.startswith('[', at):
                return text[_space(text, at + 1) :][:1] in ('{', ']')
            _, at = decode(text, at)
            at = _space(text, at) + 1
    except (ValueError, RecursionError):
        pass
    return False


def _space(text: str, at: int) -> int:
    return len(text) - len(text[at:].lstrip())
