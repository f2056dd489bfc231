"""Inputs made to harm: each takes memory or time without end, runs code, or is nonsense."""

import base64
import gzip
import io
import json
import pickle
import random
import struct
import zipfile
from collections.abc import Callable, Iterator

Bomb = tuple[str, str, str, Callable[[bytes, random.Random], bytes]]
CANARY = '/tmp/belle-canary'
CONFIGS = {
    'a million layers': {'num_hidden_layers': 10**6},
    'a milliard layers': {'num_hidden_layers': 10**9},
    'a vocabulary of 10^18': {'vocab_size': 10**18},
    'a width of 10^9': {'hidden_size': 8 * 10**9, 'head_dim': 8},
    'eps NaN': {'rms_norm_eps': float('nan')},
    'eps negative': {'rms_norm_eps': -1e-5},
    'theta 0': {'rope_theta': 0, 'rope_parameters': None},
    'theta -1': {'rope_theta': -1, 'rope_parameters': None},
    'theta infinite': {'rope_parameters': {'rope_type': 'default', 'rope_theta': float('inf')}},
    'a factor of NaN': {'rope_scaling': {'rope_type': 'linear', 'factor': float('nan')}},
    'eos -5': {'eos_token_id': -5},
    'eos as text': {'eos_token_id': ['2']},
    'false as text': {'tie_word_embeddings': 'false'},
    'a range of NaN': {'initializer_range': float('nan')},
    'bos 10^12': {'bos_token_id': 10**12},
}
TEMPLATES = {
    'loops in loops': '{% for a in range(99999) %}{% for b in range(99999) %}'
    '{% for c in [1, 2] %}{% endfor %}{% endfor %}{% endfor %}',
    'text without end': '{{ lipsum(n=10**8) }}',
    'indent without end': "{{ 'a'|indent(10**10) }}",
    'a power': '{{ (9**(9**9))|string }}',
    'a long text': "{{ 'a' * 10**10 }}",
    'a wide text': "{{ '%1000000000d' % 1 }}{{ '{:>9999999999}'.format(1) }}",
    'macros that call themselves': '{% macro m(n) %}{{ m(n) }}{{ m(n) }}{% endmacro %}{{ m(1) }}',
    'lists that hold themselves': '{% set n = namespace(x=[1]) %}{% for i in range(99) %}'
    '{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}',
    'code': "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ cycler.__init__.__globals__.os.system"
    f"('touch {CANARY}') }}}}",
    'an error of arithmetic': '{{ 1 / 0 }}',
    'no such name': '{{ nothing.at.all }}',
    'a sentence cut off': '{% for m in',
}
EXPRESSIONS = ('(a+)+b', '(?:a|aa)*$', r'(\w+\s?)*\d', 'a*a*a*a*a*b', r'(a)\1*b', '(((')


def edited(**changes) -> Callable[[bytes, random.Random], bytes]:
    return lambda content, _: json.dumps(json.loads(content) | changes).encode()


def constant(content: bytes) -> Callable[[bytes, random.Random], bytes]:
    return lambda *_: content


def zipped(program: bytes, method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w', method) as archive:
        archive.writestr('x/data.pkl', program)
        archive.writestr('x/version', b'3\n')
    return out.getvalue()


class System:
    """A pickle that runs a command."""

    def __reduce__(self):
        import os

        return os.system, (f'touch {CANARY}',)


PICKLES = {
    'a memo of 10^9': b'\x80\x02}r\xff\xff\xff\x3f.',
    'a command': pickle.dumps({'a': System()}, 2),
    'a command of protocol 4': pickle.dumps({'a': System()}, 4),
    'eval': b'\x80\x02cbuiltins\neval\nX\x01\x00\x00\x001\x85R.',
    'a text of 4 GB': b'\x80\x02X\xff\xff\xff\xffabc.',
    'bytes of 2^60': b'\x80\x04\x8e' + struct.pack('<Q', 2**60) + b'.',
    'a number of 2^31 bytes': b'\x80\x02\x8b\xff\xff\xff\x7f.',
    'a million marks': b'\x80\x02' + b'(' * 10**6 + b'.',
    'three million dicts': b'\x80\x02' + b'}' * 3_000_000 + b'.',
    'tuples in tuples': b'\x80\x02)' + b'\x85' * 900_000 + b'.',
    'nothing in it': b'\x80\x02}.',
    'a list': b'\x80\x02].',
    'not a pickle': b'hello',
}


def state(text: str) -> bytes:
    """A tokenizer.json of one part that is hostile."""
    return text.encode()


def tokenizers() -> Iterator[tuple[str, Callable[[bytes, random.Random], bytes]]]:
    def change(where: str, value) -> Callable[[bytes, random.Random], bytes]:
        def damage(content: bytes, _: random.Random) -> bytes:
            values = json.loads(content)
            *way, last = where.split('.')
            node = values
            for key in way:
                node = node[key]
            node[last] = value
            return json.dumps(values).encode()

        return damage

    yield 'an id of 4e9', change('model.vocab.!', 4_000_000_000)
    yield 'an id of -1', change('model.vocab.!', -1)
    yield 'an added id of 4e9', change('added_tokens', [{'id': 4_000_000_000, 'content': 'q'}])
    padding = {
        'strategy': {'Fixed': 4_000_000_000},
        'direction': 'Right',
        'pad_to_multiple_of': None,
    }
    padding |= {'pad_id': 0, 'pad_type_id': 0, 'pad_token': '<pad>'}
    yield 'padding to 4e9', change('padding', padding)
    yield 'dropout', change('model.dropout', 0.5)
    for number, expression in enumerate(EXPRESSIONS):
        split = {'type': 'Split', 'pattern': {'Regex': expression}, 'behavior': 'Isolated'}
        yield f'expression {number}', change('pre_tokenizer', split | {'invert': False})
    longer = {'type': 'Replace', 'pattern': {'String': 'l'}, 'content': 'l' * 50_000}
    steps = {'type': 'Sequence', 'normalizers': [longer, longer]}
    yield 'a replacement of 50,000 twice', change('normalizer', steps)


def all_of_them() -> Iterator[Bomb]:
    """Specimen, file, name, and what is written in its place."""
    for name, changes in CONFIGS.items():
        yield 'safetensors', 'config.json', name, edited(**changes)
    for name, template in TEMPLATES.items():
        yield 'tokenizer', 'chat_template.jinja', name, constant(template.encode())
    for name, program in PICKLES.items():
        yield 'torch', 'pytorch_model.bin', name, constant(zipped(program))
        yield 'legacy', 'pytorch_model.bin', name, constant(program)
        yield 'paddle', 'model_state.pdparams', name, constant(program)
    large = zipped(b'\x80\x02' + bytes(400_000_000), zipfile.ZIP_DEFLATED)
    yield 'torch', 'pytorch_model.bin', 'compressed', constant(large)
    yield 'meta', 'consolidated.00.pth', 'compressed', constant(large)
    yield 'meta', 'consolidated.00.pth', 'no tensors', constant(zipped(PICKLES['nothing in it']))
    for name, changes in (
        ('a milliard layers', {'n_layers': 10**9}),
        ('theta NaN', {'rope_theta': float('nan')}),
        ('eps infinite', {'norm_eps': float('inf')}),
        ('scaled as text', {'use_scaled_rope': 'false'}),
        ('heads 10^300', {'n_heads': 10**300}),
    ):
        yield 'meta', 'params.json', name, edited(**changes)
    for name, changes in (
        ('a milliard layers', {'n_layer': 10**9, 'num_hidden_layers': 10**9}),
        ('eps NaN', {'rms_norm_eps': float('nan')}),
    ):
        yield 'paddle', 'model_config.json', name, edited(**changes)
    for name, damage in tokenizers():
        yield 'tokenizer', 'tokenizer.json', name, damage
    flags = {'added_tokens_decoder': {'4000000000': {'content': '<z>'}}}
    yield 'tokenizer', 'tokenizer_config.json', 'an added id of 4e9', edited(**flags)
    yield 'tokenizer', 'tokenizer_config.json', 'false as text', edited(add_bos_token='false')
    yield (
        'tokenizer',
        'tokenizer_config.json',
        'a template that is a number',
        edited(chat_template=5),
    )
    yield 'tokenizer', 'tokenizer_config.json', 'special of 5', edited(extra_special_tokens=5)
    yield 'words', 'vocab.json', 'an id of 4e9', edited(zz=4_000_000_000)
    long = b'\x0a' + bytes([0x88, 0x80, 0x40]) + b'\x0a' + bytes([0x84, 0x80, 0x40]) + b'a' * 2**20
    yield 'sentencepiece', 'tokenizer.model', 'a piece of a megabyte', lambda c, _: long + c
    rank = base64.b64encode(b'a' * 10**6) + b' 264\n'
    yield 'ranks', 'tokenizer.model', 'a token of a megabyte', lambda c, _: c + rank
    header = json.dumps({'a': {'dtype': ['F32'], 'shape': [1], 'data_offsets': [0, 4]}})
    yield 'safetensors', 'model.safetensors', 'a list for a dtype', constant(headed(header))
    header = '{"a": {"dtype": "F32", "data_offsets": [0, 4], "shape": [' + '9' * 4000
    header += (',' + '9' * 4000) * 500 + ']}}'
    yield 'safetensors', 'model.safetensors', 'sizes without end', constant(headed(header))
    yield 'safetensors', 'model.safetensors', 'no tensors', constant(headed('{}'))
    yield 'shards', 'model.safetensors.index.json', 'no shards', edited(weight_map={})
    yield 'shards', 'model.safetensors.index.json', 'elsewhere', edited(weight_map={'a': '../a'})
    deep = b'{"instruction": "a", "output": ' + b'[' * 10**6 + b'\n'
    row = b'{"instruction": "a", "output": "' + b'b' * 200_000_000 + b'"}\n'
    for name, content in (
        ('nested rows', deep),
        ('a row of 200 MB', row),
        ('a number of a million digits', b'{"instruction": ' + b'9' * 10**6 + b'}\n'),
        ('no row is an object', b'5\n"a"\n'),
    ):
        yield 'jsonl', 'rows.jsonl', name, constant(content)
        yield 'gzip', 'rows.jsonl.gz', name, constant(gzip.compress(content, 1))
        yield 'json', 'rows.json', name, constant(b'[' + content.replace(b'\n', b',') + b'1]')
    spaces = gzip.compress(b'{"instruction": "a", "output": "b"}' + b'\n' * 300_000_000, 9)
    yield 'gzip', 'rows.jsonl.gz', 'lines without end', constant(spaces)
    for name, damage in (('null', b'null\n'), ('a list', b'[]\n'), ('text', b'"a"\n')):
        yield 'metrics', 'metrics.jsonl', name, lambda content, _, line=damage: line + content
    for name, changes in (
        ('files of another kind', {'files': [1]}),
        ('sizes infinite', {'files': {'a': {'size': float('inf'), 'crc32': 'a'}}}),
        ('no files', {'files': {}}),
    ):
        yield 'run', 'run/checkpoints/0.manifest.json', name, edited(**changes)
    for name, changes in (
        ('a learning rate of NaN', {'optim': {'learning_rate': float('nan')}}),
        ('a section of 5', {'optim': 5}),
        ('no model', {'model': {}}),
        ('packing as text', {'data': {'packing': 'false'}}),
    ):
        yield 'run', 'run/config.json', name, edited(**changes)
    yield 'xor', 'plain/xor_manifest.json', 'a list', constant(b'[]')
    yield 'delta', 'delta/delta.json', 'a list', constant(b'[]')
    yield 'categories', 'c.json', 'an object', constant(b'{}')


def headed(header: str) -> bytes:
    return struct.pack('<Q', len(header)) + header.encode() + bytes(4)
