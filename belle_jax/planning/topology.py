"""Devices that are not there, described for the real compilers."""

import fcntl
import functools
import importlib.util
import os
import tempfile
from typing import Any

from belle_jax.planning import chips

H200 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 4800000000000 l2_cache_size: 62914560 clock_rate_ghz: 1.98
  device_memory_size: 150000000000 shared_memory_per_block_optin: 232448
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  cuda_compute_capability { major: 9 minor: 0 }
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 }
device_description_str: "NVIDIA H200"
"""


@functools.cache
def _claim_libtpu() -> None:
    """Waits until no other process has libtpu, which serves one at a time and ends a second."""
    handle = os.open(os.path.join(tempfile.gettempdir(), 'belle-jax-libtpu'), os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_EX)  # until this process ends


def topology(target: str):
    """What to compile for a device with.

    Args:
        target: As `chips.read` takes it.
    Returns:
        Descriptions of the devices, JAX's name of their platform, and compiler options.
    """
    from jax.experimental import topologies

    chip, _, shape, slices, _ = chips.read(target)
    if chip != 'h200':
        if importlib.util.find_spec('libtpu'):
            _claim_libtpu()
        # A host has four chips or more unless told otherwise, and the two cores of a v4 would be a
        # device each.
        told: dict[str, Any] = {'chip_config_name': 'megacore'} if chip == 'v4' else {}
        told |= {'chips_per_host_bounds': (1, 1, 1)} if {*shape.split('x')} == {'1'} else {}
        told |= {'num_slices': slices} if slices > 1 else {}
        name = f'{chip}:{shape}'
        described = topologies.get_topology_desc(platform='tpu', topology_name=name, **told)
        return described.devices, 'tpu', {}
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    # JAX asks the GPU at hand whether it is a Hopper; there is none at hand, and the target is one.
    cudnn.check_compute_capability = lambda capability: float(capability) <= 9.0
    gpus, _, machines = shape.partition('x')
    described = topologies.get_topology_desc(
        platform='cuda',
        topology_name='h200',
        target_config=H200,
        topology=f'1x{machines or 1}x{gpus}',
    )
    return described.devices, 'cuda', {'xla_gpu_autotune_level': '0'}
