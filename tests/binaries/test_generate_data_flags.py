"""Every flag of generate_data does something with what was asked for, or is refused."""

import json
import subprocess
import sys

import pytest

from api_runs import ROOT
from belle_jax.flag_readers import table
from belle_jax.synthesis import KINDS, settings

# In a process of its own, as programs define the same flags.
EVERY = """
import json, sys
from absl import flags
from belle_jax import generate_data, server_flags
from belle_jax.synthesis import KINDS

FLAGS, begun, said = flags.FLAGS, [], {}
for action in ('generate', 'convert', 'deduplicate', 'look'):
    setattr(generate_data, action, lambda: begun.append(1))
modules = FLAGS.flags_by_module_dict()
ours = {f.name: f for m in (generate_data, server_flags) for f in modules[m.__name__]}
for name, flag in ours.items():
    value = flag.enum_values[0] if hasattr(flag, 'enum_values') else flag.default
    value = ','.join(value or 'ab') if 'list' in flag.flag_type() else value
    for reader in (*KINDS, 'convert', 'dedupe', 'review', '--apply'):
        for beside in ('', '--rebuild', '--similarity=none', '--tokens=words'):
            FLAGS.unparse_flags()
            for each in FLAGS:
                FLAGS[each].present, FLAGS[each].value = 0, FLAGS[each].default
            words = [f'--{name}={9 if value is None else value}']
            words += [f'--kind={reader}'] * (reader in KINDS and name != 'kind')
            FLAGS(['x', *words])
            if name == 'kind' and reader in KINDS:
                FLAGS['kind'].value = reader
            other, _, given = beside.strip('-').partition('=')
            if beside and name != other:  # counts as not given, so that it is not what is refused
                FLAGS[other].value = given or True
            begun.clear()
            action = 'generate' if reader in KINDS else reader
            if reader == '--apply':
                FLAGS['apply'].value, action = True, 'review'
            elif name == 'apply':
                FLAGS['apply'].value = False
            try:
                generate_data.main(action)
                said[f'{name} {reader} {beside}'] = ''
            except ValueError as error:
                said[f'{name} {reader} {beside}'] = str(error)
            assert len(begun) == (not said[f'{name} {reader} {beside}'])
json.dump([sorted(ours), said, server_flags.NAMES], sys.stdout)
"""


def test_each_flag_is_read_by_each_action_and_kind_or_refused() -> None:
    done = subprocess.run([sys.executable, '-c', EVERY], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ours, said, servers = json.loads(done.stdout)
    aliases = {
        'seed_tasks_path': 'seeds',
        'num_instructions_to_generate': 'count',
        'request_batch_size': 'concurrency',
    }
    read_by = table(settings.READ_BY | {servers: 'generate'})
    assert sorted([*read_by, *aliases]) == ours  # the table knows every flag
    assert {reader for known in read_by.values() for reader in known} == {
        *KINDS, 'generate', 'dedupe', 'convert', 'review', '--apply',
    }  # fmt: skip
    for key, sentence in said.items():
        given, reader, beside = key.split(' ')
        name = str(aliases.get(given, given))
        making = reader in KINDS
        heeded = reader in read_by[name] or (making and 'generate' in read_by[name])
        idle = {
            '--similarity=none': 'threshold tokens neighbours' if making else '',
            '--tokens=words': 'language' if reader == 'dedupe' else '',
        }.get(beside, '')
        if not heeded:
            assert sentence.startswith(f'--{name} does nothing with {reader}: it belongs to'), key
        elif name in idle.split():
            assert sentence.startswith(f'--{name} does nothing beside --'), key
        else:
            assert sentence == '', key


@pytest.mark.parametrize(
    ('program', 'flags', 'sentence'),
    [
        ('delta', 'make --level=3 --format=bin', '--format does nothing with make'),
        ('delta', 'apply --level=3', '--level does nothing with apply: it belongs to make'),
        ('xor', 'verify --target=x', '--target does nothing with verify'),
        ('xor', 'encrypt --key=x --target=y --nocheck_kind', '--check_kind does nothing with enc'),
    ],
)
def test_converters_with_actions_refuse_flags_of_another_action(program, flags, sentence) -> None:
    common = ['--base=x', '--target=y'] if program == 'delta' else ['--source=x']
    command = [sys.executable, '-m', f'convert.{program}', *flags.split(), *common]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and sentence in done.stderr, done.stderr
