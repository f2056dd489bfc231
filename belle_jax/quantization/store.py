"""Finished layers on disk, so that work that was stopped goes on after the last of them."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from belle_jax.files import locked, sweep
from belle_jax.json_files import read_json, write_json
from belle_jax.quantization.process import Quantised
from belle_jax.quantization.solver import Solution
from belle_jax.weights import bitpacking, safetensors
from belle_jax.weights.tensors import Stored, planned

SETTINGS = 'settings.json'


def left(target: Path) -> bool:
    """Whether there are layers of a model, be they half removed."""
    path = layers_path(target)
    return path.exists() or path.with_name(f'.{path.name}.deleted').exists()


def layers_path(target: Path) -> Path:
    """Where the layers of a model lie while it is quantised."""
    return target.absolute().with_name(f'{target.name}.layers')


class Store:
    """The layers of one model that is being quantised, in a directory beside the target."""

    def __init__(self, target: Path, settings: Mapping[str, Any], bits: int):
        """
        Args:
            target: Where the model will be.
            settings: All that decides what a layer becomes.
            bits: Of a code.
        Raises:
            ValueError: there are layers that were made by other settings.
        """
        self.path = layers_path(target)
        self._settings, self._bits = dict(settings), bits

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Keeps other processes out, and checks what is there already."""
        self.path.mkdir(parents=True, exist_ok=True)
        busy = OSError(f'another process is writing {self.path}: wait until it has ended.')
        with locked(self.path / 'lock', busy):
            sweep(self.path)
            path = self.path / SETTINGS
            before = read_json(path) if path.is_file() else self._settings
            for name in sorted(before.keys() | self._settings.keys()):
                if (was := before.get(name)) != (now := self._settings.get(name)):
                    raise ValueError(
                        f'{self.path} holds layers that were quantised with {name}={was!r:.80}, '
                        f'and now it is {now!r:.80}. Give the same again to go on, or remove it.'
                    )
            write_json(path, self._settings)
            yield

    def save(self, number: int, layer: Quantised, account: Mapping[str, Any]) -> None:
        """Writes a layer, whole, and what its report says."""
        arrays: dict[str, np.ndarray] = {}
        for name, solution in layer.solutions.items():
            arrays[f'{name}.words'] = bitpacking.pack(np.asarray(solution.codes), self._bits)
            arrays[f'{name}.scales'] = np.asarray(solution.scales)
            arrays[f'{name}.zeros'] = np.asarray(solution.zeros)
            arrays[f'{name}.groups'] = np.asarray(solution.groups)
        arrays |= {name: np.asarray(array) for name, array in layer.floats.items()}
        ordered = sorted(arrays.items(), key=lambda item: -item[1].dtype.itemsize)
        write_json(self._account(number), dict(account))
        safetensors.write(self._file(number), [planned(name, array) for name, array in ordered])

    def load(self, number: int) -> Quantised | None:
        """A layer that is there; None where there is none."""
        if not self._file(number).is_file():
            return None
        arrays = {name: stored.array for name, stored in self.tensors(number).items()}
        products = [n.removesuffix('.words') for n in arrays if n.endswith('.words')]
        solutions = {}
        for name in products:
            words, scales, zeros, groups = (
                arrays.pop(f'{name}.{part}') for part in ('words', 'scales', 'zeros', 'groups')
            )
            code = bitpacking.unpack(words, self._bits, len(groups))
            weights = scales[groups] * (code.astype(np.float32) - zeros[groups])
            parts = code, scales, zeros, weights, groups
            solutions[name] = Solution(*map(jnp.asarray, parts))
        return Quantised(solutions, {name: jnp.asarray(array) for name, array in arrays.items()})

    def tensors(self, number: int) -> dict[str, Stored]:
        """A layer's file, open."""
        return safetensors.read(self._file(number))

    def accounts(self, layers: int) -> list[dict[str, Any]]:
        """What the reports of all layers say."""
        return [read_json(self._account(number)) for number in range(layers)]

    def _file(self, number: int) -> Path:
        return self.path / f'layer-{number:04d}.safetensors'

    def _account(self, number: int) -> Path:
        return self.path / f'layer-{number:04d}.json'
