"""Keep the first layers of an encoder, to try much on little.

python model_cards/truncate.py MODEL 2 OUT
"""

import sys

from transformers import AutoModel, AutoTokenizer


def main(model: str, layers: str, out: str) -> None:
    """Write a model of the first layers, with its tokenizer."""
    AutoModel.from_pretrained(model, num_hidden_layers=int(layers)).save_pretrained(out)
    AutoTokenizer.from_pretrained(model).save_pretrained(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
