"""Fused attention kernels: cuDNN's on NVIDIA GPUs, splash on TPUs, with ALiBi folded into them.

Neither kernel takes ALiBi. Inside a softmax a constant per query changes nothing, so slope · key
index is enough, and that is a product: eight more features on queries and keys. In bfloat16 one
such feature would be off by whole logits; so the slope is split into three bfloat16 terms and the
key index into 256 · high + low, each exact in bfloat16: the bias is as exact as float32's own
rounding.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from belle_jax import sharding
from belle_jax.config import MAX_SEGMENTS

LANES = 128
ALIBI_FEATURES = 8


def choose(q_btnh: jax.Array) -> str:
    """The fastest backend for these queries on the devices at hand."""
    platform = _platform()
    if platform == 'tpu' and q_btnh.shape[1] % LANES == 0:
        return 'splash'
    if platform == 'gpu' and q_btnh.dtype in (jnp.bfloat16, jnp.float16) and _hopper():
        return 'cudnn'
    return 'xla'


def attention(
    q_btnh: jax.Array,
    k_bskh: jax.Array,
    v_bskh: jax.Array,
    segment_ids: jax.Array | None,
    slopes: np.ndarray | None,
    backend: str,
) -> jax.Array:
    """Causal attention by a fused kernel, or a ValueError; arguments as `attention.attention`'s."""
    length, head_dim = q_btnh.shape[1], q_btnh.shape[3]
    if segment_ids is None:
        segment_ids = jnp.ones(q_btnh.shape[:2], jnp.int32)
    kernel = {'cudnn': _cudnn, 'splash': _splash}[backend]
    if backend == 'cudnn' and q_btnh.dtype not in (jnp.bfloat16, jnp.float16):
        raise ValueError(
            f'--config.model.attention=cudnn takes 16-bit activations, not {q_btnh.dtype}: set '
            '--config.model.dtype=bfloat16 or --config.model.attention=xla.'
        )
    if backend == 'splash' and length % LANES:
        raise ValueError(
            f'--config.model.attention=splash takes lengths that are multiples of {LANES}, not '
            f'{length}: set --config.data.seq_len to one, or --config.model.attention=xla.'
        )
    scale = 1.0 / math.sqrt(head_dim)
    if backend == 'splash':  # it has no scale; and scaling after ALiBi is folded would round that
        q_btnh, scale = q_btnh * scale, 1.0
    slope_n = np.zeros(q_btnh.shape[2], np.float32) if slopes is None else slopes

    def local(q_btnh, k_bskh, v_bskh, segment_ids, slope_n):
        if slopes is not None:
            q_btnh, k_bskh = fold_alibi(q_btnh, k_bskh, slope_n / scale)
        return kernel(q_btnh, k_bskh, v_bskh, segment_ids, scale)

    heads = ('batch', 'length', 'heads', 'head_dim')
    mapped = sharding.shard_map(
        local, (heads, heads, heads, ('batch', 'length'), ('heads',)), heads
    )
    return mapped(q_btnh, k_bskh, v_bskh, segment_ids, jnp.asarray(slope_n))


def fold_alibi(
    q_btnh: jax.Array, k_bsnh: jax.Array, slope_n: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Adds features whose product is slope · key index.

    Args:
        q_btnh: Queries [B, T, N, H].
        k_bsnh: Keys [B, S, N, H].
        slope_n: float32 [N], already divided by the kernel's scale.
    Returns:
        Queries and keys with 8 more features, in their dtypes.
    """
    batch, keys, heads, _ = k_bsnh.shape
    rest, terms = slope_n, []
    for _ in range(3):  # float32 has 24 significant bits, bfloat16 eight
        # reduce_precision, because XLA may drop a cast there and back as excess precision
        terms.append(jax.lax.reduce_precision(rest, exponent_bits=8, mantissa_bits=7))
        rest = rest - terms[-1]
    terms_n3 = jnp.stack(terms, axis=-1)
    features_nf = jnp.concatenate(
        [256.0 * terms_n3, terms_n3, jnp.zeros((heads, ALIBI_FEATURES - 6))], axis=-1
    )
    q_more = jnp.broadcast_to(features_nf, (*q_btnh.shape[:3], ALIBI_FEATURES))
    index = jnp.arange(keys)
    high_low = jnp.stack([index // 256, index % 256], axis=-1)
    k_features = jnp.concatenate(
        [jnp.repeat(high_low, 3, axis=-1), jnp.zeros((keys, ALIBI_FEATURES - 6), index.dtype)], -1
    )
    k_more = jnp.broadcast_to(k_features[None, :, None], (batch, keys, heads, ALIBI_FEATURES))
    return (
        jnp.concatenate([q_btnh, q_more.astype(q_btnh.dtype)], axis=-1),
        jnp.concatenate([k_bsnh, k_more.astype(k_bsnh.dtype)], axis=-1),
    )


def _cudnn(q_btnh, k_bskh, v_bskh, segment_ids, scale):
    """Flash attention of cuDNN, packed segments by their offsets (Hopper and later)."""
    # The public jax.nn.dot_product_attention has no argument for packed segments yet.
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    head_dim = v_bskh.shape[-1]
    v_bskh = _pad_features(v_bskh, q_btnh.shape[-1])  # cuDNN's backward wants equal widths
    lengths_bm, offsets_bm = segment_offsets(segment_ids, MAX_SEGMENTS + 1)
    out = cudnn.dot_product_attention(
        q_btnh,
        k_bskh,
        v_bskh,
        q_seqlen=lengths_bm,
        kv_seqlen=lengths_bm,
        q_offsets=offsets_bm,
        kv_offsets=offsets_bm,
        scale=scale,
        mask_type=cudnn.MaskType.PADDING_CAUSAL,
    )
    assert isinstance(out, jax.Array)
    return out[..., :head_dim]


def segment_offsets(segment_ids: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Segment ids as cuDNN wants them: lengths and starts. Padding (id 0) is a segment of its own.

    Args:
        segment_ids: int [B, T]; a segment's tokens are adjacent.
        count: M, segments a row may have, its padding included.
    Returns:
        Lengths int32 [B, M] and offsets int32 [B, M + 1], unused entries -1.
    """
    batch, length = segment_ids.shape
    change = segment_ids[:, 1:] != segment_ids[:, :-1]
    first = jnp.concatenate([jnp.ones((batch, 1), bool), change], axis=1)

    def of_row(first_t):
        starts = jnp.nonzero(first_t, size=count, fill_value=length)[0]
        ends = jnp.append(starts[1:], length)
        used = starts < length
        after_last = jnp.argmin(jnp.append(used, False))  # where the row's end goes
        offsets = jnp.append(jnp.where(used, starts, -1), -1).at[after_last].set(length)
        return jnp.where(used, ends - starts, -1), offsets

    lengths, offsets = jax.vmap(of_row)(first)
    return lengths.astype(jnp.int32), offsets.astype(jnp.int32)


def _splash(q_btnh, k_bskh, v_bskh, segment_ids, scale):
    """Splash attention, the TPU kernel that ships with JAX; the queries come scaled."""
    del scale
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    length, heads = q_btnh.shape[1], q_btnh.shape[2]
    head_dim = v_bskh.shape[-1]
    width = -(-q_btnh.shape[-1] // LANES) * LANES
    q_btnh, k_bskh = _pad_features(q_btnh, width), _pad_features(k_bskh, width)
    v_bskh = _pad_features(v_bskh, -(-head_dim // LANES) * LANES)
    block = max(b for b in (128, 256, 512) if length % b == 0)
    passes = ('q', 'kv', 'q_dkv', 'kv_dkv', 'q_dq', 'kv_dq')
    sizes: dict[str, Any] = {f'block_{name}': block for name in passes}
    splash = kernel.make_splash_mha(
        masks.MultiHeadMask([masks.CausalMask((length, length))] * heads),
        block_sizes=kernel.BlockSizes(**sizes),
        head_shards=1,
        q_seq_shards=1,
    )
    q_bnth, k_bksh, v_bksh = (x.swapaxes(1, 2) for x in (q_btnh, k_bskh, v_bskh))
    segments = kernel.SegmentIds(q=segment_ids, kv=segment_ids)
    out_bnth: Any = jax.vmap(splash)(q_bnth, k_bksh, v_bksh, segments)
    return out_bnth.swapaxes(1, 2)[..., :head_dim]


def _pad_features(x: jax.Array, width: int) -> jax.Array:
    missing = width - x.shape[-1]
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)]) if missing else x


def _platform() -> str:
    """Of the mesh that is set, which may describe devices elsewhere, or of the default device."""
    mesh = jax.sharding.get_abstract_mesh()
    described = getattr(mesh, 'abstract_device', None) if not mesh.empty else None
    platform = getattr(described, 'platform', None) or jax.default_backend()
    return 'gpu' if platform in ('cuda', 'rocm', 'gpu') else platform


def _hopper() -> bool:
    devices = [d for d in jax.local_devices() if d.platform == 'gpu']
    return bool(devices) and float(getattr(devices[0], 'compute_capability', 0)) >= 9.0
