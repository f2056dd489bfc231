"""Settings of all tests: eight virtual CPU devices, no network, and where the shared files lie.

The number of devices must be set before JAX is first used, so it is set here, before any test
module is imported.
"""

import os
import sys
from pathlib import Path

# A test never reaches for a hub: what it needs is in the tree, made by itself, or under `shared`.
os.environ['HF_HUB_OFFLINE'] = '1'
os.environ['HF_DATASETS_OFFLINE'] = '1'
os.environ.setdefault('HF_HUB_DISABLE_TELEMETRY', '1')
# A tokenizer that was used before a fork prints a warning about its threads; tests start processes.
os.environ.setdefault('TOKENIZERS_PARALLELISM', 'false')
# Plots are files here, never windows.
os.environ.setdefault('MPLBACKEND', 'Agg')

ROOT = Path(__file__).resolve().parent.parent
# Compiling is most of the work here; test processes, and the programs that they start, share it.
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(ROOT / '.pytest_cache' / 'jax'))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.2')
# What makes XLA compile a program in a quarter of the time; the kernels of its older emitters and
# without optimisation are slower, which small arrays do not show.
QUICK = (
    '--xla_backend_optimization_level=0',
    '--xla_cpu_use_fusion_emitters=false',
    '--xla_cpu_parallel_codegen_split_count=1',
)

import jax
import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Eight virtual CPU devices; only the GPU tests (`pytest -m gpu`) see the real ones."""
    if config.option.markexpr.strip() != 'gpu':
        jax.config.update('jax_platforms', 'cpu')
        jax.config.update('jax_num_cpu_devices', 8)
        # Most programs here run for less time than XLA takes to optimise them, those that tests
        # start as well. Both sides of a comparison to the last bit are compiled so.
        os.environ['XLA_FLAGS'] = ' '.join([os.environ.get('XLA_FLAGS', ''), *QUICK]).strip()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long trials run where they are asked for: `pytest -m soak`."""
    if 'soak' not in config.option.markexpr:
        long = [item for item in items if item.get_closest_marker('soak')]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


@pytest.fixture(scope='session')
def shared() -> Path:
    """The folder of real files that are not part of this project.

    Returns:
        BELLE_SHARED, by default ../shared; the test skips where there is none.
    """
    path = Path(os.environ.get('BELLE_SHARED') or ROOT.parent / 'shared')
    if not (path / 'data').is_dir():
        pytest.skip(f'no shared test files at {path} (set BELLE_SHARED)')
    return path


@pytest.fixture(scope='session')
def compilers() -> dict[str, str]:
    """The compilers for TPUs and GPUs, as `make test` installs them (`.ci/compilers`).

    Returns:
        The environment of a process that has them and runs on the CPU; the test skips where they
        are not installed.
    """
    path = Path(os.environ.get('BELLE_COMPILERS') or Path(sys.prefix) / 'compilers')
    if not (path / 'libtpu').is_dir() or not (path / 'jax_cuda13_plugin').is_dir():
        pytest.skip(f'no TPU and GPU compilers at {path} (.ci/compilers installs them)')
    search = os.pathsep.join([str(path), str(ROOT), os.environ.get('PYTHONPATH', '')])
    alone = {'JAX_PLATFORMS': 'cpu', 'TPU_SKIP_MDS_QUERY': '1'}
    flags = {name: value for name, value in os.environ.items() if name != 'XLA_FLAGS'}
    return flags | alone | {'PYTHONPATH': search.rstrip(os.pathsep)}
