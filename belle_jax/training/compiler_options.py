"""Options of XLA's compilers for the training step, by kind of device, each with why and its worth.

Worth is told by the TPU compiler's own estimate of a step (`belle-jax plan`). What the installed
compiler does not know is left out: an unknown option would end the run.
"""

import functools
from typing import Any

import jax
from absl import logging

OPTIONS: dict[str, dict[str, str]] = {
    'tpu': {
        # Gathers of weights become rings of products over slices of the contracted axis ("windowed
        # einsum"), which are slow where each chip has few rows. LLaMA-7B on 16 v5e: 2.57e9 cycles a
        # step with them, 1.21e9 without.
        'xla_jf_spmd_threshold_for_windowed_einsum_mib': '1000000',
        # Gathers of weights run beside products on up to 32 v5p too, where nothing else hides them.
        # Two layers of LLaMA-7B on 32 v5p: 1.86e6 tokens/s without, 2.05e6 with these and four that
        # change nothing alone. On v5e they change nothing; on 64 v5p nothing is hidden even so.
        'xla_enable_async_all_gather': 'true',
        'xla_tpu_enable_async_collective_fusion': 'true',
        'xla_tpu_enable_async_collective_fusion_fuse_all_gather': 'true',
        'xla_tpu_enable_async_collective_fusion_multiple_steps': 'true',
        'xla_tpu_overlap_compute_collective_tc': 'true',
    },
}


def options(device: Any) -> dict[str, str | bool]:
    """The options for a step on devices like one of them, which may be a description alone."""
    return dict(_accepted(device.platform, device))


@functools.cache
def _accepted(platform: str, device: Any) -> tuple[tuple[str, str], ...]:
    """Those that the compiler takes, found by compiling next to nothing."""
    wanted = OPTIONS.get(platform, {})
    taken = [item for item in wanted.items() if _takes(platform, device, dict([item]))]
    for name in wanted.keys() - dict(taken).keys():
        logging.warning(f'This compiler does not know {name}, so the step may be slower.')
    return tuple(taken)


def _takes(platform: str, device: Any, given: dict[str, str | bool]) -> bool:
    where = jax.sharding.SingleDeviceSharding(device)
    one = jax.ShapeDtypeStruct((), 'float32', sharding=where)
    lowered = jax.jit(lambda x: x + 1).trace(one).lower(lowering_platforms=(platform,))
    try:
        lowered.compile(compiler_options=given)
    except jax.errors.JaxRuntimeError as error:
        if 'option' not in str(error).lower():
            raise
        return False
    return True
