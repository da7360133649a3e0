"""Models with heads and without."""

from __future__ import annotations

import torch
from toy_models import ARCHITECTURES, tiny_config
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMaskedLM

EVERY = (*ARCHITECTURES, "vit", "resnet")
LANGUAGE = {
    "BertForMaskedLM": (AutoModelForMaskedLM, "bert"),
    "DistilBertForMaskedLM": (AutoModelForMaskedLM, "distilbert"),
    "RobertaForMaskedLM": (AutoModelForMaskedLM, "roberta"),
    "ModernBertForMaskedLM": (AutoModelForMaskedLM, "modernbert"),
    "GPT2LMHeadModel": (AutoModelForCausalLM, "gpt2"),
    "LlamaForCausalLM": (AutoModelForCausalLM, "llama"),
}


HEADLESS = (*(f"{name} trunk" for name in EVERY), *LANGUAGE)


def made(name: str, **sizes):
    """A bare trunk or a language model."""
    auto_class, architecture = LANGUAGE.get(name, (AutoModel, name.removesuffix(" trunk")))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return auto_class.from_config(tiny_config(architecture, **sizes)).eval()


def everything(model) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
