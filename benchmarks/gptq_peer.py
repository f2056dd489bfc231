"""GPTQModel's own quantisation of a directory, run by a Python that has it and not us.

    python gptq_peer.py MODEL TOKENS.npy TARGET BITS GROUP_SIZE

Prints how many seconds quantising took, loading and saving left out, as JSON.
"""

import json
import os
import sys
import time

os.environ |= {'GPTQMODEL_CPU_WORKERS': '4', 'HF_HUB_OFFLINE': '1', 'CUDA_VISIBLE_DEVICES': ''}

import numpy as np
from gptqmodel import GPTQModel, QuantizeConfig


def main(model: str, tokens: str, target: str, bits: str, group_size: str) -> None:
    """Everything at its default but bits and group."""
    rows = np.load(tokens).tolist()
    data = [{'input_ids': row, 'attention_mask': [1] * len(row)} for row in rows]
    quantised = GPTQModel.load(model, QuantizeConfig(bits=int(bits), group_size=int(group_size)))
    begun = time.monotonic()
    quantised.quantize(data, batch_size=4)
    took = time.monotonic() - begun
    quantised.save(target)
    print(json.dumps({'seconds': took}))


if __name__ == '__main__':
    main(*sys.argv[1:])
