"""An interpolated Kneser-Ney model on exactly the tokens of a run: the bar for a small model.

    python -m benchmarks.kneser_ney --config=configs/zh_small.py [--config.data.path=...]

Reads the same configuration as belle_jax.train, counts n-grams in the training rows (an epoch's,
prompts included) and prints, as JSON, the mean negative log-likelihood of the validation rows'
trained tokens in nats: the number that training prints as its evaluation loss.
"""

import json
import pathlib

import numpy as np
from absl import app, flags
from ml_collections import config_flags

from benchmarks.ngrams import KneserNey

CONFIG = config_flags.DEFINE_config_file('config', None, 'The recipe, as in training.')
ORDER = flags.DEFINE_integer('order', 5, 'Longest n-gram.')
OUTPUT = flags.DEFINE_string('output', '', 'Also write the JSON to this file.')


def of_plan(plan) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An epoch of a plan as one stream.

    Args:
        plan: A `belle_jax.data.Plan`.
    Returns:
        tokens int32, segments int64 and whether each token is a trained target, all [tokens].
    """
    from belle_jax import data

    tokens, segments, targets, row = [], [], [], 0
    for batch in data.load(plan.until(1), ahead=0):
        here = batch['segment_ids'] > 0
        rows = row + np.arange(len(here))[:, None]
        row += len(here)
        # Weights belong to the position before the target.
        learnt = np.pad(batch['weights'][:, :-1] > 0, ((0, 0), (1, 0)))
        tokens.append(batch['tokens'][here])
        segments.append((rows * here.shape[1] + batch['segment_ids'])[here])
        targets.append(learnt[here])
    return np.concatenate(tokens), np.concatenate(segments), np.concatenate(targets)


def measure(run, order: int = 5) -> dict[str, float | int]:
    """The model's loss on a run's validation rows.

    Args:
        run: A `belle_jax.config.Run`.
        order: Longest n-gram.
    Returns:
        Nats a token, perplexity, and how many tokens were counted and judged.
    """
    from belle_jax import data
    from belle_jax.data import tokenizer

    made = tokenizer.load(run.data.tokenizer or run.model.source)
    prepared = data.prepare(run, made)
    if not prepared.validation:
        raise ValueError('there are no validation rows: set --config.data.validation.fraction.')
    tokens, segments, _ = of_plan(prepared.train)
    model = KneserNey(tokens, segments, len(made), order)
    losses = []
    for held_out in prepared.validation:
        held, held_segments, targets = of_plan(held_out.plan)
        losses.append(model.nll(held, held_segments)[targets])
    loss = float(np.concatenate(losses).mean())
    return {
        'order': order,
        'nats_per_token': round(loss, 4),
        'perplexity': round(float(np.exp(loss)), 2),
        'training_tokens': len(tokens),
        'validation_tokens': sum(map(len, losses)),
        'vocab_size': len(made),
    }


def main(_: list[str]) -> None:
    from belle_jax import config

    text = json.dumps(measure(config.resolve(CONFIG.value), ORDER.value), indent=2)
    print(text)
    if OUTPUT.value:
        pathlib.Path(OUTPUT.value).write_text(text + '\n', 'utf-8')


if __name__ == '__main__':
    flags.mark_flag_as_required('config')
    app.run(main)
