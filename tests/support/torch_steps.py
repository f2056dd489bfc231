"""Small models of transformers' with random weights, and steps of training by torch."""

import numpy as np
import torch
import transformers

import tiny


def model(family: str):
    """A small model, the same at each call."""
    torch.manual_seed(0)
    if family == 'llama':
        settings = transformers.LlamaConfig(
            vocab_size=300,
            hidden_size=64,
            intermediate_size=96,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            attention_bias=True,
            rms_norm_eps=1e-4,
        )
        return transformers.LlamaForCausalLM(settings)
    settings = transformers.BloomConfig(vocab_size=300, hidden_size=64, n_layer=3, n_head=4)
    return transformers.BloomForCausalLM(settings)


def batches(steps: int):
    """Packed batches; each of five comes again and again: there is something to learn."""
    for seed in [s % 5 for s in range(steps)]:
        lengths = np.random.default_rng(seed).integers(10, 33, 6)
        yield tiny.packed_batch([[int(n)] for n in lengths], 32, seed=seed)


def losses(trained, batches, optimiser, schedule, clip_norm: float):
    """The loss of each step, which is taken as it is asked for."""
    trained.train()
    for batch in batches:
        # Their labels are at the token itself; ours, at the position before it.
        labels = np.full_like(batch['tokens'], -100)
        weighed = batch['weights'][:, :-1] > 0
        labels[:, 1:][weighed] = batch['targets'][:, :-1][weighed]
        loss = trained(
            input_ids=torch.tensor(batch['tokens'], dtype=torch.long),
            attention_mask=torch.tensor(batch['segment_ids'] > 0, dtype=torch.long),
            labels=torch.tensor(labels, dtype=torch.long),
        ).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained.parameters(), clip_norm)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        yield loss.item()
