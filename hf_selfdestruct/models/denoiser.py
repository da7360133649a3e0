"""A U-Net of diffusers as the ``PreTrainedModel`` that hardening takes; it needs the extra ``diffusion``."""

from __future__ import annotations

from typing import Any, Self

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from transformers import AutoConfig, AutoModelForImageToImage, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput


class DenoiserConfig(PreTrainedConfig):
    """The settings of a U-Net.

    Args:
        unet: ``UNet2DModel.config``, as a plain mapping.
    """

    model_type = "denoiser"

    def __init__(self, unet: dict[str, Any] | None = None, **rest: Any) -> None:
        self.unet = dict(unet or {})
        super().__init__(**rest)


class Denoiser(PreTrainedModel):
    """A ``UNet2DModel`` that predicts noise, with labels and logits as a model of transformers has them.

    What is published is the U-Net itself, ``denoiser.unet``, in diffusers' own format.

    Args:
        config: The settings of a U-Net; its weights are random. :meth:`of` takes a U-Net with its weights.

    Example:
        ```python
        denoiser = Denoiser.of(UNet2DModel.from_pretrained("folder"))
        ...  # harden it
        denoiser.unet.save_pretrained("hardened")
        ```
    """

    config_class = DenoiserConfig
    base_model_prefix = "unet"
    main_input_name = "pixel_values"

    def __init__(self, config: DenoiserConfig) -> None:
        super().__init__(config)
        self.unet = UNet2DModel.from_config(config.unet)
        self.post_init()

    @classmethod
    def of(cls, unet: UNet2DModel) -> Self:
        """A denoiser around a U-Net, which is not copied.

        Raises:
            TypeError: It is no ``UNet2DModel``.
            ValueError: It needs a class of each picture, or answers something else than the noise of its input.
        """
        if not isinstance(unet, UNet2DModel):
            raise TypeError(f"Denoiser.of takes a UNet2DModel of diffusers, got {type(unet).__name__}.")
        conditions = [name for name in ("class_embed_type", "num_class_embeds") if unet.config.get(name)]
        if conditions or unet.config.in_channels != unet.config.out_channels:
            raise ValueError(
                "only U-Nets that predict the noise of their input alone are hardened, and this one has "
                f"{conditions[0] if conditions else 'other channels at its end'}: use an unconditional one."
            )
        with torch.device("meta"):
            denoiser = cls(DenoiserConfig({n: v for n, v in unet.config.items() if not n.startswith("_")}))
        denoiser.unet = unet
        return denoiser.train(unet.training)

    def forward(self, pixel_values: Tensor, timestep: Tensor, labels: Tensor | None = None) -> ImageClassifierOutput:
        """Predict the noise in noised pictures.

        Args:
            pixel_values: Noised pictures, shape ``(rows, channels, height, width)``.
            timestep: Shape ``(rows,)``.
            labels: The noise, shape ``(rows, pixels)``, for the loss.

        Returns:
            The noise in ``logits``, shape ``(rows, pixels, 1)``; of all channels.
        """
        noise = self.unet(pixel_values, timestep).sample.flatten(1)
        loss = None if labels is None else mse_loss(noise, labels)
        return ImageClassifierOutput(loss=loss, logits=noise[..., None])

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: the layers of diffusers have initialised themselves."""


AutoConfig.register(DenoiserConfig.model_type, DenoiserConfig)
AutoModelForImageToImage.register(DenoiserConfig, Denoiser)
