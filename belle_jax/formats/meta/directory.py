"""Meta's directories: `consolidated.NN.pth`, `params.json` and `tokenizer.model`, in and out."""

import dataclasses
import functools
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer

from belle_jax.data import tiktoken_model
from belle_jax.formats import huggingface
from belle_jax.formats.meta import layout, params, tokenizer_model
from belle_jax.formats.meta.layout import BUFFERS, COLUMNS, ROWS, MetaTensor
from belle_jax.formats.meta.params import FILE, Params
from belle_jax.formats.protocol import PublishedModel, new_model
from belle_jax.json_files import read_json, write_json
from belle_jax.weights import torch_files
from belle_jax.weights.tensors import Planned, Stored, common_dtype, same

NAME = 'consolidated.{:02d}.pth'
_NAME = re.compile(r'consolidated\.(\d+)\.pth')
_EMBEDDING, _QUERY, _GATE, _HEAD = (
    'tok_embeddings.weight',
    'layers.0.attention.wq.weight',
    'layers.0.feed_forward.w1.weight',
    'output.weight',
)
LLAMA_3_VOCABULARY = 128_000  # no LLaMA of another tokenizer has as many tokens
# Where Meta's own tokenizer may lie; the hub's directories of Llama 3 have it in a folder.
PLACES = ('', 'original')


def open(directory: str | Path, max_position: int = 0, ignore_crc: bool = False) -> PublishedModel:
    """Opens a LLaMA 1, 2 or 3 as Meta published it; no code in the files is run.

    Args:
        directory: Of `consolidated.NN.pth`, `params.json` and `tokenizer.model` (which may also lie
            in the directory above).
        max_position: Tokens of context, which Meta's files do not give; 0: as published.
        ignore_crc: Whether a conversion takes files whose checksums are wrong.
    Returns:
        The model, whose tensors can only be read in order: each is put together of its parts.
    Raises:
        ValueError: a file is missing, damaged or of another model.
    """
    source = Path(directory)
    said = params.parse(read_json(source / FILE), str(source / FILE))
    words_file = tokenizer_model.find(source)
    tokenizer, words = tokenizer_model.read(words_file, said.scaled)
    files = MetaFiles(source, said)
    tokenizer_model.check_size(words_file, tokenizer, words, files.vocab_size)
    dtype = common_dtype({t.place: t.array.dtype for part in files.tensors for t in part.values()})
    meant = functools.partial(
        params.architecture, said, words, vocab_size=files.vocab_size, mlp=files.mlp, dtype=dtype
    )
    try:
        model, reason = meant(tied=False)
    except ValueError as error:
        raise ValueError(f'{source / FILE}: {error}') from error
    remedy = f'Take the {FILE} that belongs to {source}, or a download in fewer files.'
    layout.check_divides(model, len(files.paths), remedy)
    entries = layout.table(model, files.embedding_axis)
    tensors = files.match(entries if files.has_head else entries[:-1])
    # Llama 3.2's small models store the one table that they have twice.
    if not files.has_head or same(tensors[-1], tensors[0]):
        tensors = tensors[: len(entries) - 1]
        model, reason = meant(tied=True)
    if max_position:
        model, reason = dataclasses.replace(model, max_position=max_position), '--max_position'
    note = f"Context: {model.max_position:,} tokens ({reason}), which Meta's files do not give."
    return PublishedModel(
        directory=source,
        architecture=model,
        tensors={tensor.name: tensor for tensor in tensors},
        dtype=dtype,
        carry=functools.partial(_carry, words_file, tokenizer),
        stored=() if ignore_crc else [t for part in files.tensors for t in part.values()],
        notes=[note],
    )


def _carry(words_file: Path, tokenizer: Tokenizer, target: Path) -> list[str]:
    tokenizer_model.write(words_file, tokenizer, target)
    huggingface.copy(words_file.parent, target, huggingface.LICENCE_FILES)
    return []


def write(model: PublishedModel, target: str | Path, count: int = 1, dtype: str = '') -> Path:
    """Writes a model in Meta's layout; the directory appears when it is complete.

    Args:
        model: Open in a layout that has whole tensors.
        target: A new directory, or an empty one; returned when it is complete.
        count: How many files `consolidated.NN.pth`, one for each GPU that Meta's code shall use.
        dtype: As in `protocol.new_model`.
    Raises:
        ValueError: Meta's layout cannot say the model, or it cannot be cut into that many files.
    """
    source, architecture = model.directory, model.architecture
    places = (source / place / tokenizer_model.FILE for place in PLACES)
    words = next((path for path in places if path.is_file()), None)
    by_rank = architecture.vocab_size >= LLAMA_3_VOCABULARY
    by_rank = tiktoken_model.is_ranks(words) if words else by_rank
    values = params.values(architecture, by_rank)
    layout.check_divides(architecture, count, f'Set --shards to a divisor, not {count}.')
    entries = layout.table(architecture, ROWS if by_rank else COLUMNS)
    arrays = [model.array(entry.name) for entry in entries[:-1]]
    # Meta's code has no tied tables.
    arrays.append(arrays[0] if architecture.tied else model.array(entries[-1].name))
    tensors = [
        layout.part(entry, array, index, count)
        for index in range(count)
        for entry, array in zip(entries, arrays, strict=True)
    ]
    if words is None:
        print(
            f'{source} has no {tokenizer_model.FILE}, so --target gets none: copy the one that '
            'Meta published with this model.'
        )
    _warn(model, by_rank, dtype or model.dtype)
    with new_model(model, target, tensors, dtype) as (partial, flat):
        for index in range(count):
            own = flat[index * len(entries) : (index + 1) * len(entries)]
            torch_files.write(partial / NAME.format(index), own)
        write_json(partial / FILE, values)
        if words:
            shutil.copyfile(words, partial / tokenizer_model.FILE)
        huggingface.copy(source, partial, huggingface.LICENCE_FILES)
    return Path(target)


def _warn(model: PublishedModel, by_rank: bool, dtype: str) -> None:
    """Says what Meta's files leave out where `open` would take something else."""
    a = model.architecture
    said = params.parse(params.values(a, by_rank), FILE)
    words = params.Words(by_rank, a.bos_id, a.eos_ids)
    sizes = {'vocab_size': a.vocab_size, 'mlp': a.mlp, 'tied': a.tied}
    back, reason = params.architecture(said, words, **sizes, dtype=dtype)
    if back.max_position != a.max_position:
        print(
            f"The context of {a.max_position:,} tokens is not in Meta's files: on the way back "
            f'give --max_position={a.max_position}, or {back.max_position} is taken ({reason}).'
        )


class MetaFiles:
    """The shards of a model in order, mapped, not read, and what their shapes say of the whole."""

    def __init__(self, directory: Path, params: Params):
        """Opens them; one that is missing, damaged or cut otherwise than Meta's is a ValueError."""
        self.paths = find(directory)
        self.tensors: list[dict[str, Stored]] = []
        for path in self.paths:
            tensors = torch_files.read(path)
            self.tensors.append({n: t for n, t in tensors.items() if not BUFFERS.fullmatch(n)})
        self._check_count(params)
        self.has_head = any(_HEAD in tensors for tensors in self.tensors)
        rows, columns = self._matrix(_EMBEDDING)
        # With one file both are true, and it does not matter.
        self.embedding_axis = ROWS if columns == params.dim else COLUMNS
        self.vocab_size = rows * (len(self.paths) if self.embedding_axis == ROWS else 1)
        self.mlp = self._matrix(_GATE)[0] * len(self.paths)
        if params.vocab_size not in (None, self.vocab_size):
            raise ValueError(
                f'{directory / FILE}: vocab_size={params.vocab_size}, but {_EMBEDDING} has '
                f'{self.vocab_size} rows. The files belong to two models.'
            )

    def _check_count(self, params: Params) -> None:
        """One file of four looks complete, but its shapes tell."""
        rows = max(1, self._matrix(_QUERY)[0])
        shards, have = params.dim // rows, len(self.paths)
        if shards > have and params.dim % rows == 0:
            raise ValueError(
                f'{self.paths[0].with_name(NAME.format(have))} is missing: {_QUERY} is one of '
                f'{shards} parts, and there are {have} files. Complete the download.'
            )

    def _matrix(self, name: str) -> tuple[int, int]:
        """Shape of a matrix in the first file."""
        if name not in self.tensors[0]:
            raise ValueError(_missing(name, self.paths[0]))
        shape = self.tensors[0][name].array.shape
        if len(shape) != 2:
            raise ValueError(
                f'{self.tensors[0][name].place} has shape {list(shape)}: it is not a matrix.'
            )
        return shape

    def match(self, entries: Sequence[MetaTensor]) -> list[Planned]:
        """Finds every tensor of a table in every file, and nothing else; in the table's order.

        Raises:
            ValueError: a tensor is missing, left over, of another shape or dtype, or what should be
                the same in all files is not; it is named with its file.
        """
        wanted = {entry.meta for entry in entries}
        for path, tensors in zip(self.paths, self.tensors, strict=True):
            for name in wanted - tensors.keys():
                raise ValueError(_missing(name, path))
            for name in tensors.keys() - wanted:
                raise ValueError(
                    f'{tensors[name].place} belongs to no part of a LLaMA with this {FILE}: '
                    'converting the rest would give another model than was saved.'
                )
        return [self._whole(entry) for entry in entries]

    def _whole(self, entry: MetaTensor) -> Planned:
        found = [tensors[entry.meta] for tensors in self.tensors]
        shape = entry.part_shape(len(found))
        for tensor in found:
            if tensor.array.shape != shape:
                raise ValueError(
                    f'{tensor.place} has shape {list(tensor.array.shape)}, but {FILE} asks for '
                    f'{list(shape)}, one of {len(found)} parts of {list(entry.shape)}. The files '
                    'belong to two models, or one is missing.'
                )
            if tensor.array.dtype != found[0].array.dtype:
                raise ValueError(
                    f'{tensor.place} is {tensor.array.dtype}, and {found[0].array.dtype} in '
                    f'{found[0].file.name}. The files belong to two models.'
                )
        if entry.axis is None:
            for tensor in found[1:]:
                if tensor.array.tobytes() != found[0].array.tobytes():
                    raise ValueError(
                        f'{tensor.place} differs from the one in {found[0].file.name}, and all '
                        'files must have the same. They belong to two models.'
                    )
        return layout.joined(entry, [tensor.array for tensor in found])


def find(directory: Path) -> list[Path]:
    """The files of a model in order; a ValueError names one that is missing."""
    if not directory.is_dir():
        raise ValueError(f"--source={directory} is not a directory: give the one of Meta's files.")
    found = {}
    for path in sorted(directory.iterdir()):
        if name := _NAME.fullmatch(path.name):
            found[int(name[1])] = path
    if not found:
        raise ValueError(
            f"{directory} holds no {NAME.format(0)}, with which Meta's LLaMA files begin. Point "
            'to the directory of one model, such as LLaMA/7B.'
        )
    for index in range(max(found)):
        if index not in found:
            raise ValueError(
                f'{directory / NAME.format(index)} is missing, and there is '
                f'{found[max(found)].name}. Complete the download.'
            )
    return [found[index] for index in sorted(found)]


def _missing(name: str, path: Path) -> str:
    return (
        f'{name} is missing from {path}: {FILE} asks for it. Complete the download, or take the '
        f'{FILE} that belongs to it.'
    )
