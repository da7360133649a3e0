"""Replace a share of an encoder's weights by random ones, to relearn the desired task from there (2506.06278).

python model_cards/noised.py MODEL 0.5 OUT
"""

import sys

import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer


def main(model: str, share: str, out: str) -> None:
    """Write ``(1 - share) * weights + share * random weights of the architecture``, with the tokenizer."""
    torch.manual_seed(0)
    noised, random = AutoModel.from_pretrained(model), AutoModel.from_config(AutoConfig.from_pretrained(model))
    with torch.no_grad():
        for weight, other in zip(noised.parameters(), random.parameters(), strict=True):
            weight.lerp_(other, float(share))
    noised.save_pretrained(out)
    AutoTokenizer.from_pretrained(model).save_pretrained(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
