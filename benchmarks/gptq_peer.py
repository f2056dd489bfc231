"""GPTQModel's own quantisation of a directory, run by a Python that has it and not us.

    python gptq_peer.py MODEL TOKENS.npy TARGET BITS GROUP_SIZE ORDER

ORDER is 'default', or 'desc_act' for inputs with large activations first. Prints how many seconds
quantising took, loading and saving left out, as JSON.
"""

import json
import os
import sys
import time

os.environ |= {'GPTQMODEL_CPU_WORKERS': '4', 'HF_HUB_OFFLINE': '1', 'CUDA_VISIBLE_DEVICES': ''}

import numpy as np
from gptqmodel import GPTQModel, QuantizeConfig


def main(model: str, tokens: str, target: str, bits: str, group_size: str, order: str) -> None:
    """Everything at its default but bits and group, and the order where that is asked for."""
    options = {'desc_act': True} if order == 'desc_act' else {}
    if group_size == '-1':
        options['act_group_aware'] = False  # its default, which it refuses for one group of all
    rows = np.load(tokens).tolist()
    data = [{'input_ids': row, 'attention_mask': [1] * len(row)} for row in rows]
    config = QuantizeConfig(bits=int(bits), group_size=int(group_size), **options)
    quantised = GPTQModel.load(model, config)
    begun = time.monotonic()
    quantised.quantize(data, batch_size=4)
    took = time.monotonic() - begun
    quantised.save(target)
    print(json.dumps({'seconds': took}))


if __name__ == '__main__':
    main(*sys.argv[1:])
