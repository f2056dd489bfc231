"""Turns BELLE's XOR diffs into models, and models into XOR diffs.

    belle-jax convert xor decrypt --source=belle-enc --key=7B/consolidated.00.pth --target=belle
    belle-jax convert xor encrypt --source=mine --key=7B/consolidated.00.pth --target=mine-enc
    belle-jax convert xor verify --source=belle [--key=FILE] [--md5=FILE]

Whoever has the original LLaMA file can restore what was made with it; nobody else has anything. A
file gets its name only when its SHA-256 is right. The same command goes on with work that was
interrupted. The target's xor_manifest.json has size, SHA-256 and md5 of every file, and verify
reads a directory again and compares it with that, with a published list of md5, or with --key, by
decrypting, with the SHA-256 in the files' names.
"""

from absl import flags

from belle_jax import cli
from belle_jax.diffs import xor
from belle_jax.flag_readers import require_read

SOURCE = flags.DEFINE_string('source', None, 'File, or directory of files.')
KEY = flags.DEFINE_string('key', '', "File to XOR with: the original's consolidated.00.pth.")
TARGET = flags.DEFINE_string('target', '', 'Directory to write; not for verify.')
MD5 = flags.DEFINE_string('md5', '', 'Published list, lines of HASH  ./name, to check against.')
THREADS = flags.DEFINE_integer('threads', 0, 'Files at a time; 0: one a core.', lower_bound=0)
CHECK_KIND = flags.DEFINE_boolean(
    'check_kind',
    True,
    'Refuse a key at once that does not make .bin, .json, .safetensors or .model files of them.',
)


def main(action: str) -> object:
    """Does it, and returns the manifest, or what verify says."""
    source, key, target, md5 = str(SOURCE.value), KEY.value, TARGET.value, MD5.value
    require_read({'target': ['encrypt', 'decrypt'], 'check_kind': ['decrypt', 'verify']}, action)
    if action == 'verify':
        return xor.verify(source, key, md5, THREADS.value, CHECK_KIND.value)
    for name, value in (('key', key), ('target', target)):
        if not value:
            raise ValueError(f'--{name} is missing: {action} needs --source, --key and --target.')
    if action == 'encrypt':
        return xor.encrypt(source, key, target, md5, THREADS.value)
    return xor.decrypt(source, key, target, md5, THREADS.value, CHECK_KIND.value)


if __name__ == '__main__':
    cli.run(main, required=('source',), actions=('encrypt', 'decrypt', 'verify'))
