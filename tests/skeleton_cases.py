"""Models, batches and weights that skeletons are tried with."""

from __future__ import annotations

import torch
from peft import LoraConfig
from torch.nn.functional import cross_entropy
from toy_models import ARCHITECTURES, tiny_model, toy_batch, toy_images

from hf_selfdestruct.models.row_embedding import used_rows
from hf_selfdestruct.models.stateless import INDEX, OWN, StatelessModel

EVERY = (*ARCHITECTURES, "vit", "resnet")
LABELS = 3
TARGETS = {
    "bert": ["query", "value"],
    "distilbert": ["q_lin", "v_lin"],
    "roberta": ["query", "value"],
    "modernbert": ["Wqkv"],
    "gpt2": ["c_attn"],
    "llama": ["q_proj", "v_proj"],
    "vit": ["q_proj", "v_proj"],
    "resnet": ["convolution"],
}


def model_of(name: str, **sizes):
    """In float64, with embeddings large enough for every row to be felt."""
    model = tiny_model(name, **{"num_labels": LABELS, **sizes}).double().eval()
    if name in ARCHITECTURES:
        model.get_input_embeddings().weight.data *= 20
    return model


def everything(model) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def text(rows: int = 7, *, side: str = "right", seed: int = 0) -> dict[str, torch.Tensor]:
    """Toy rows, the ends of some of which are padding; or the beginnings."""
    batch = toy_batch(rows, seed=seed)
    counts = batch["attention_mask"].eq(0).sum(1).tolist()
    assert any(counts)
    if side == "left":
        for name in ("input_ids", "attention_mask"):
            batch[name] = torch.stack([row.roll(count) for row, count in zip(batch[name], counts, strict=True)])
    return batch


def batch_for(name: str, **options) -> dict[str, torch.Tensor]:
    return text(**options) if name in ARCHITECTURES else toy_images(7)


def inputs_of(batch) -> dict[str, torch.Tensor]:
    return {n: v for n, v in batch.items() if n != "labels"}


def own_of(skeleton: StatelessModel, seed: int = 0) -> dict[str, torch.Tensor]:
    """A fresh head, large enough to be felt, and fresh adapters."""
    drawn = skeleton.draw(seed, device=torch.device("cpu"))
    return {OWN + n: w.double() * (1 if "lora_" in n else 10) for n, w in drawn.items()}


def lora_for(name: str, **fields) -> LoraConfig:
    return LoraConfig(**{"r": 2, "lora_alpha": 6, "target_modules": TARGETS[name], **fields})


def noisy(own: dict[str, torch.Tensor], seed: int = 9) -> dict[str, torch.Tensor]:
    """Own weights after some training: no adapter is 0 any more."""
    generator = torch.Generator().manual_seed(seed)
    return {n: w + 0.1 * torch.randn(w.shape, generator=generator, dtype=w.dtype) for n, w in own.items()}


def leaves(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies; published parameters and own weights ask for gradients, buffers do not."""
    return {n: w.detach().clone().requires_grad_(w.requires_grad or n.startswith(OWN)) for n, w in weights.items()}


def loss_and_gradients(skeleton: StatelessModel, weights, batch):
    """Logits, and the gradients of a loss for every weight that is reached."""
    given = leaves(weights)
    logits = skeleton.run(given, inputs_of(batch)).logits
    cross_entropy(logits, batch["labels"]).backward()
    return logits.detach(), {n: w.grad for n, w in given.items() if w.grad is not None}


# Rows


def compacted(skeleton: StatelessModel, model, batches) -> dict[str, torch.Tensor]:
    """The live weights, of the word embeddings those that the batches use."""
    weights = everything(model)
    if skeleton.embedding is None:
        return weights
    rows, index = used_rows(batches, len(weights[skeleton.embedding]), skeleton.padding)
    return {**weights, skeleton.embedding: weights[skeleton.embedding][rows], INDEX: index}
