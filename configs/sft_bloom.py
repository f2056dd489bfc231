"""Full fine-tuning of BLOOMZ on BELLE's conversations, as the model card of BELLE-7B-2M has it.

belle-jax train --config=sft_bloom:7b1 --workdir=runs/belle-7b

From the card: 64 conversations a step, learning rate 3e-6, 3 epochs, weight decay 0.001, warm-up
over a tenth of the steps, linear decay, one conversation a row. Where this departs from BELLE:

- The card's data are train_2M_CN and 50,000 rows of English Alpaca; only 7b1_alpaca has the latter.
- 1,000 conversations are held out for validation; rows that cannot be used are skipped and counted.
- Length 1,024, that of BELLE's run_sft.sh; the card names none.
- Adam's numbers and clipping at 1 are transformers' defaults, as the card names none.
- Parameters and moments are float32 and activations bfloat16; BELLE trained in half precision.
- An answer's end-of-sequence token is always trained on; BELLE's trainer cut it off long answers.
- Prompts are tokenised as the published model is asked (`Human: …\\n\\nAssistant:`).

Variants: 560m, 1b1, 1b7, 3b, 7b1, and 7b1_alpaca, which has the card's mixture. Needs about 16
bytes of accelerator memory for each parameter: 7b1 runs on 8 GPUs of 80 GB, or on a TPU v5e-16 with
--config.mesh.tensor=2 --config.batch.accumulation=4 (15.4 GB a chip; docs/clusters.md).
"""

from ml_collections import ConfigDict

from belle_jax import config

VARIANTS = ('560m', '1b1', '1b7', '3b', '7b1', '7b1_alpaca')
ALPACA = 'tatsu-lab/alpaca=0.9615'  # 50,000 of 52,002 rows


def get_config(variant: str = '7b1') -> ConfigDict:
    """The recipe; `variant` is one of VARIANTS."""
    if variant not in VARIANTS:
        raise ValueError(f'variant {variant!r} is not one of {", ".join(VARIANTS)}.')
    c = config.default()
    c.model.source = f'bigscience/bloomz-{"7b1-mt" if variant.startswith("7b1") else variant}'
    c.model.dtype = 'bfloat16'
    c.data.update(path='BelleGroup/train_2M_CN', template='belle', seq_len=1024, packing=False)
    if variant == '7b1_alpaca':
        c.data.path += f',{ALPACA}'
    c.data.on_bad_row = 'skip'
    c.data.validation.count = 1000
    c.batch.size = 64
    c.optim.update(learning_rate=3e-6, schedule='linear', warmup_ratio=0.1, weight_decay=0.001)
    c.train.epochs = 3.0
    return c
