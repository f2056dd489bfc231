"""What `adapter_config.json` says."""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from belle_jax.families import Architecture, LowRank
from belle_jax.families.low_rank import products
from belle_jax.json_files import read_json

CONFIG = 'adapter_config.json'
UNSUPPORTED = (
    'fan_in_fan_out', 'lora_bias', 'use_qalora', 'layer_replication', 'trainable_token_indices',
    'target_parameters', 'use_bdlora', 'alora_invocation_tokens', 'arrow_config', 'eva_config',
    'corda_config', 'loftq_config',
)  # fmt: skip
"""Settings that mean other arrays or another arithmetic, if they are set."""
OF_THE_BASE = ('pissa', 'olora', 'corda', 'loftq', 'lora_ga')
"""Beginnings, by which peft takes from the base what the adapter starts with, again on loading."""


def is_adapter(directory: Path) -> bool:
    """Whether a directory holds an adapter."""
    return (directory / CONFIG).is_file()


def base_of(directory: Path) -> str:
    """What the adapter says its base is called; '' where it says nothing."""
    return str(read_json(directory / CONFIG).get('base_model_name_or_path') or '')


class AdapterSettings:
    """What `adapter_config.json` says of ranks and scales."""

    def __init__(self, path: Path):
        """Reads it; a ValueError names a setting that is malformed, or means something else."""
        values = read_json(path)
        if not isinstance(values, dict) or values.get('peft_type') != 'LORA':
            kind = values.get('peft_type') if isinstance(values, dict) else values
            raise ValueError(f'{path}: peft_type={kind!r:.80}: adapters of kind LORA are read.')
        for name in UNSUPPORTED:
            if values.get(name):
                raise ValueError(f'{path}: {name} is set, which is not read here: merge with peft.')
        if str(values.get('init_lora_weights')).startswith(OF_THE_BASE):
            raise ValueError(
                f'{path}: init_lora_weights={values["init_lora_weights"]!r:.80} changes the base '
                "too, which is not read here: save it with peft's "
                'path_initial_model_for_weight_conversion, or merge with peft.'
            )
        if values.get('bias', 'none') != 'none':
            raise ValueError(f'{path}: bias={values["bias"]!r:.80}: only none is read.')
        self.path, self.values = path, values
        self.rank = int(self._number(values.get('r'), 'r', whole=True))
        self.alpha = self._number(values.get('lora_alpha', 8), 'lora_alpha')
        self.rslora, self.dora = bool(values.get('use_rslora')), bool(values.get('use_dora'))

    def of(self, module: str) -> tuple[int, float]:
        """The rank of a module, and what its B A is multiplied by."""
        rank = int(self._pattern('rank_pattern', module, self.rank, whole=True))
        alpha = self._pattern('alpha_pattern', module, self.alpha)
        return rank, alpha / (math.sqrt(rank) if self.rslora else rank)

    def _pattern(self, field: str, module: str, default: float, whole: bool = False) -> float:
        patterns = self.values.get(field) or {}
        if not isinstance(patterns, dict):
            raise ValueError(f'{self.path}: {field}={patterns!r:.80} must be a table.')
        for name, value in patterns.items():
            if not re.fullmatch(r'\^?[\w.]+', name):
                raise ValueError(f'{self.path}: {field} has {name!r:.80}: only names are read.')
            name = name.removeprefix('^')
            if module == name or module.endswith(f'.{name}'):
                return self._number(value, f'{field}.{name}', whole)
        return default

    def _number(self, value: Any, name: str, whole: bool = False) -> float:
        if type(value) not in (int, *(() if whole else (float,))) or not 0 < value < 2**31:
            kind = 'whole number' if whole else 'number'
            raise ValueError(f'{self.path}: {name}={value!r:.80} must be a {kind} above 0.')
        return value


def written(
    adapter: LowRank, architecture: Architecture, base: str, modules: Sequence[str]
) -> dict[str, Any]:
    known = products(architecture)
    return {
        'peft_type': 'LORA',
        'task_type': 'CAUSAL_LM',
        'base_model_name_or_path': base,
        'r': adapter.rank,
        'lora_alpha': adapter.alpha,
        'lora_dropout': 0.0,
        'use_rslora': adapter.rslora,
        'use_dora': adapter.dora,
        'target_modules': [known[name].theirs.split('.')[-2] for name in adapter.targets],
        'modules_to_save': list(modules) or None,
        'bias': 'none',
        'fan_in_fan_out': False,
        'inference_mode': True,
        'init_lora_weights': True,
        'rank_pattern': {},
        'alpha_pattern': {},
    }
