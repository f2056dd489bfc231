"""What a run tells: JSON lines, TensorBoard, Weights & Biases, a live line, and a loss curve."""

import json
import math
import resource
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax

from belle_jax import families
from belle_jax.families import Architecture
from belle_jax.files import whole_file, write_text
from belle_jax.progress import Line, duration
from belle_jax.runs.run_directory import read_metrics

CHINESE_FONTS = ('Noto Sans CJK SC', 'WenQuanYi Micro Hei', 'PingFang SC', 'Microsoft YaHei')
Read = Callable[[Path], tuple[list[dict[str, Any]], list[bytes]]]
PEAK_FLOPS = {
    # dense bfloat16 of one chip, from the vendors' data sheets
    'A100': 312e12,
    'H100': 989e12,
    'H200': 989e12,
    'B200': 2250e12,
    'TPU v4': 275e12,
    'TPU v5 lite': 197e12,
    'TPU v5e': 197e12,
    'TPU v5p': 459e12,
    'TPU v5': 459e12,
    'TPU v6 lite': 918e12,
    'TPU v6e': 918e12,
}


def training_flops_per_token(
    architecture: Architecture, trained: Mapping[str, int], seq_len: int
) -> float:
    """Floating-point operations that training must do for one token.

    For each entry of a product or of the output table two forward and two for the gradient of what
    went in, and two more where it is trained; 6 · layers · q_heads · head_dim · seq_len for
    attention's two products over seq_len / 2 keys on average. Recomputation (remat) is not counted,
    the embedding's look-up is free.

    Args:
        architecture: The model.
        trained: Entries of each trained parameter, by name.
        seq_len: Tokens of a row.
    Source: Chowdhery et al., 2022 (PaLM), appendix B, with causal attention counted as half.
    """
    a = architecture
    table = 'embed.table' if a.tied else 'head.table'
    kernels = (math.prod(e.our_shape) for e in families.tensor_maps(a) if families.is_matrix(e))
    products = sum(kernels) + a.vocab_size * a.embed
    moved = a.vocab_size * a.embed if table in trained else 0
    adapters = sum(
        size for name, size in trained.items() if name.endswith(('.adapter.a', '.adapter.b'))
    )
    moved += sum(size for name, size in trained.items() if name.endswith('.kernel'))
    attention = 6.0 * a.layers * a.q_heads * a.head_dim * seq_len
    return 4.0 * products + 2.0 * moved + 6.0 * adapters + attention


def peak_flops() -> float | None:
    """Of one device of this process, or None where it is not known."""
    kind = jax.devices()[0].device_kind
    return next((flops for name, flops in PEAK_FLOPS.items() if name in kind), None)


def memory_bytes() -> int:
    """The most memory used so far: of the fullest local device, or of the process on a CPU."""
    stats = [s for d in jax.local_devices() if (s := d.memory_stats())]
    if stats:
        return max(s.get('peak_bytes_in_use', 0) for s in stats)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Recorder:
    """Writes metrics; only process 0 does, the others' recorders do nothing."""

    def __init__(self, directory: Path, first_step: int, steps: int, wandb: str, settings: Any):
        """Opens the files; lines of steps that will be done again are dropped.

        Args:
            directory: `metrics/` of the run.
            first_step: Steps that the checkpoint has done: everything after it is forgotten.
            steps: Of the whole run.
            wandb: A project's name, or ''.
            settings: Shown by W&B.
        """
        self.active = jax.process_index() == 0
        self._line = Line(self.active)
        self.path = directory / 'metrics.jsonl'
        if not self.active:
            return
        directory.mkdir(parents=True, exist_ok=True)
        self._wandb = None
        if wandb:
            try:
                import wandb as client
            except ImportError as error:
                raise ValueError(
                    f'--config.train.wandb={wandb} needs a package: pip install wandb.'
                ) from error

            self._wandb = client.init(project=wandb, config=settings, dir=str(directory))
        if self.path.exists():
            write_records(self.path, records_until(first_step, self.path, self.say))
        self._file = self.path.open('a', encoding='utf-8')
        from tensorboardX import SummaryWriter

        self._board = SummaryWriter(str(directory), purge_step=first_step + 1)
        self._steps, self._first, self._started = steps, first_step, time.monotonic()

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """One line for a step, to every sink; `time` is in seconds since 1970."""
        if not self.active:
            return
        now = round(time.time(), 3)
        record = {'step': step, 'time': now} | {k: _number(v) for k, v in metrics.items()}
        self._file.write(json.dumps(record) + '\n')
        self._file.flush()
        for name, value in metrics.items():
            self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(dict(metrics), step=step)
        self._show(step, metrics)

    def say(self, text: str) -> None:
        """Prints a line above the live one."""
        self._line.say(text)

    def close(self) -> None:
        """Ends the live line and closes the files."""
        if not self.active:
            return
        self._line.end()
        self._file.close()
        self._board.close()
        if self._wandb is not None:
            self._wandb.finish()

    def _show(self, step: int, metrics: Mapping[str, float]) -> None:
        if 'evaluation_loss' in metrics:
            self.say(_evaluated(step, metrics))
            return
        done = max(step - self._first, 1)
        left = (time.monotonic() - self._started) / done * (self._steps - step)
        text = (
            f'step {step}/{self._steps} · loss {metrics["loss"]:.4f} · '
            f'{metrics["tokens_per_second"]:,.0f} tokens/s · lr {metrics["learning_rate"]:.2e} · '
            f'grad norm {metrics["grad_norm"]:.3f} · left {duration(left)}'
        )
        (self._line.show if self._line.live else self.say)(text)


def _evaluated(step: int, metrics: Mapping[str, float]) -> str:
    text = (
        f'step {step}: evaluation loss {metrics["evaluation_loss"]:.4f}, '
        f'perplexity {metrics["evaluation_perplexity"]:.2f}'
    )
    bits = 'evaluation_bits_per_character'
    text += f', {metrics[bits]:.4f} bits a character' if bits in metrics else ''
    sources = [
        f'{name.partition("/")[2]} {value:.4f}'
        for name, value in metrics.items()
        if name.startswith(f'{bits}/')
    ]
    return text + (f' ({", ".join(sources)})' if sources else '')


def records_until(
    step: int, path: Path, say: Callable[[str], None], read: Read = read_metrics
) -> list[dict[str, Any]]:
    """The records of a file up to a step; those behind it are of steps that will be done again.

    Damaged lines are put aside, and `say` is told so.
    """
    records, damaged = read(path)
    if damaged:
        aside = path.with_suffix('.damaged.jsonl')
        with aside.open('ab') as file:
            file.writelines(damaged)
        say(f'{path}: {len(damaged)} damaged lines were put into {aside}.')
    return [record for record in records if record['step'] <= step]


def write_records(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Writes JSON lines; a kill leaves the old ones or the new ones."""
    write_text(path, ''.join(json.dumps(r, ensure_ascii=False) + '\n' for r in records))


def draw(records: list[dict[str, float]], path: Path) -> None:
    """A PNG with training and evaluation loss over steps, and the learning rate."""
    import matplotlib

    matplotlib.use('agg')
    from matplotlib import font_manager, pyplot

    figure, axis = pyplot.subplots(figsize=(8, 4.5), layout='constrained')
    curves = [('loss', 'training', '-'), ('evaluation_loss', 'evaluation', 'o-')]
    sources = dict.fromkeys(n for r in records for n in r if n.startswith('evaluation_loss/'))
    curves += [(name, name.partition('/')[2], '.--') for name in sources]
    for name, label, style in curves:
        points = [(r['step'], r[name]) for r in records if r.get(name) is not None]
        if points:
            axis.plot(*zip(*points, strict=True), style, label=label, markersize=4)
    axis.set(xlabel='step', ylabel='loss (nats a token)')
    axis.grid(alpha=0.3)
    rates = [(r['step'], r['learning_rate']) for r in records if 'learning_rate' in r]
    if rates:
        right = axis.twinx()
        right.plot(*zip(*rates, strict=True), ':', color='grey', label='learning rate')
        right.set_ylabel('learning rate')
    # Sources may have Chinese names; the bundled font has no such letters.
    installed = [name for name in CHINESE_FONTS if name in font_manager.get_font_names()]
    axis.legend(prop={'family': ['sans-serif', *installed]})
    with whole_file(path) as file, warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'Glyph')  # without such a font they are boxes
        figure.savefig(file, format='png', dpi=120)
    pyplot.close(figure)


def _number(value: float) -> float | int | None:
    value = float(value)
    return value if math.isfinite(value) else None
