"""Keeping losses on real models, and the loss of language models."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from keeping_cases import inputs_of
from torch import Tensor
from torch.func import functional_call
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForMultipleChoice,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedModel,
)

from hf_selfdestruct.losses.keeping import (
    EmbeddingDistillation,
    HiddenStateDistillation,
    KeepingLoss,
    LanguageModeling,
    LogitDistillation,
)


def run(model: PreTrainedModel, batch: dict[str, Tensor], **more):
    return model(**batch, **more, output_hidden_states=True)


CASES = [
    ("bert", AutoModelForSequenceClassification, LogitDistillation(2.0)),
    ("bert", AutoModelForTokenClassification, LogitDistillation()),
    ("bert", AutoModel, HiddenStateDistillation()),
    ("bert", AutoModelForMaskedLM, EmbeddingDistillation()),
    ("gpt2", AutoModelForCausalLM, LogitDistillation()),
    ("gpt2", AutoModel, HiddenStateDistillation()),
    ("gpt2", AutoModel, EmbeddingDistillation("last")),
    ("llama", AutoModelForSequenceClassification, EmbeddingDistillation()),
    ("vit", AutoModelForImageClassification, LogitDistillation()),
    ("vit", AutoModelForImageClassification, HiddenStateDistillation()),
    ("vit", AutoModel, EmbeddingDistillation("first")),
    ("resnet", AutoModelForImageClassification, LogitDistillation()),
    ("resnet", AutoModelForImageClassification, HiddenStateDistillation()),
    ("resnet", AutoModel, EmbeddingDistillation()),
]


def on_models(cases: list[tuple[str, type, KeepingLoss]]) -> pytest.MarkDecorator:
    ids = [f"{kind}-{auto.__name__}-{loss}" for kind, auto, loss in cases]
    return pytest.mark.parametrize(("kind", "auto", "loss"), cases, ids=ids)


@on_models([case for case in CASES if case[0] != "llama"])  # its norms compute in float32, whatever the weights are
def test_gradient_on_real_models_equals_finite_differences(build, kind, auto, loss) -> None:
    model, batch = build(kind, auto), inputs_of(kind)
    with torch.no_grad():
        original = run(build(kind, auto, seed=1), batch)
    names = [name for name, _ in model.named_parameters()]

    def value(*parameters: Tensor) -> Tensor:
        outputs = functional_call(
            model, dict(zip(names, parameters, strict=True)), kwargs={**batch, "output_hidden_states": True}
        )
        # Parameters the loss does not see (heads, poolers) enter with a zero gradient.
        return loss(outputs, original, batch) + 0.0 * sum(p.sum() for p in parameters)

    assert torch.autograd.gradcheck(value, tuple(model.parameters()), fast_mode=True)


@on_models(CASES)
def test_every_trunk_parameter_is_kept(build, kind, auto, loss) -> None:
    model, batch = build(kind, auto), inputs_of(kind)
    value = loss(run(model, batch), run(build(kind, auto, seed=1), batch), batch)
    value.backward()
    assert value > 0
    for name, parameter in model.base_model.named_parameters():
        pools = name.startswith("pooler") and not isinstance(loss, LogitDistillation)
        behind = kind == "vit" and name.startswith("layernorm") and isinstance(loss, HiddenStateDistillation)
        if pools or behind:  # not part of what is compared
            continue
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # A bias of the keys shifts all scores of a query alike: softmax does not see it.
        assert parameter.grad.abs().max() > 0 or name.endswith(("key.bias", "k_proj.bias")), name


@on_models(CASES)
def test_the_same_model_is_at_zero(build, kind, auto, loss) -> None:
    model, batch = build(kind, auto), inputs_of(kind)
    assert loss(run(model, batch), run(build(kind, auto), batch), batch).item() == 0


@pytest.mark.parametrize("kind", ["bert", "gpt2"])
@pytest.mark.parametrize("loss", [HiddenStateDistillation(), EmbeddingDistillation(), EmbeddingDistillation("last")])
def test_padding_tokens_of_real_models_do_not_matter(build, kind, loss) -> None:
    models, batch = (build(kind, AutoModel), build(kind, AutoModel, seed=1)), inputs_of(kind)
    before = loss(*(run(model, batch) for model in models), batch)
    mask = torch.nn.functional.pad(batch["attention_mask"], (0, 4))
    ids = torch.nn.functional.pad(batch["input_ids"], (0, 4)).masked_fill(mask == 0, 41)
    wider = {"input_ids": ids, "attention_mask": mask}
    torch.testing.assert_close(loss(*(run(model, wider) for model in models), wider), before, rtol=1e-9, atol=0)


def test_multiple_choice_has_one_row_of_states_per_choice(build) -> None:
    models = [build("bert", AutoModelForMultipleChoice, seed=seed) for seed in (0, 1)]
    flat = inputs_of("bert")
    batch = {name: values.repeat(2, 1, 1) for name, values in flat.items()}
    given = [run(model, batch) for model in models]
    assert LogitDistillation()(*given, batch) > 0
    bare = [run(model.base_model, flat) for model in models]
    torch.testing.assert_close(HiddenStateDistillation()(*given, batch), HiddenStateDistillation()(*bare, flat))


def test_embedding_is_what_a_bare_model_gives(build) -> None:
    """After the final norm of a ViT where both give it; else before it, for both."""
    batch = inputs_of("vit")
    bare = [run(build("vit", AutoModel, seed=seed), batch) for seed in (0, 1)]
    only = [SimpleNamespace(last_hidden_state=given.last_hidden_state) for given in bare]
    before = [SimpleNamespace(hidden_states=given.hidden_states) for given in bare]
    loss = EmbeddingDistillation()
    assert loss(*bare, batch) == loss(*only, batch)
    assert loss(*bare, batch) != loss(*before, batch)
    assert loss(bare[0], before[1], batch) == loss(*before, batch)


# Language modelling


@pytest.mark.parametrize(("kind", "auto"), [("bert", AutoModelForMaskedLM), ("gpt2", AutoModelForCausalLM)])
def test_language_modeling_is_the_mean_over_labelled_tokens(build, kind, auto) -> None:
    model, batch = build(kind, auto), inputs_of(kind)
    batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    outputs = run(model, batch)
    shift = 1 if kind == "gpt2" else 0  # token p is predicted at position p - 1
    places = [(row, p) for row in range(3) for p in range(shift, 6) if batch["labels"][row, p] != -100]
    terms = [-outputs.logits[row, p - shift].log_softmax(-1)[batch["labels"][row, p]] for row, p in places]
    value = LanguageModeling()(outputs, None, batch)
    assert value.item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-6)  # the causal one is float32


def test_a_batch_without_any_masked_token_costs_nothing(build) -> None:
    model, batch = build("bert", AutoModelForMaskedLM), inputs_of("bert")
    batch["labels"] = torch.full_like(batch["input_ids"], -100)
    outputs = run(model, batch)
    assert outputs.loss.isnan()
    value = LanguageModeling()(outputs, None, batch)
    value.backward()  # the graph is there: no process of several waits for a gradient in vain
    assert value.item() == 0
    assert all(p.grad is None or p.grad.abs().max() == 0 for p in model.parameters())
    assert model.base_model.embeddings.word_embeddings.weight.grad is not None


def test_language_modeling_needs_a_language_model(build) -> None:
    batch = inputs_of("bert")
    labels = torch.zeros(3, dtype=torch.long)
    classifier = run(build("bert", AutoModelForSequenceClassification), {**batch, "labels": labels})
    many = {**batch, "labels": torch.ones(3, 2, dtype=torch.double)}  # two dimensions, as one label per token has
    multilabel = run(build("bert", AutoModelForSequenceClassification), many)
    bare = run(build("bert", AutoModel), batch)
    unlabelled = run(build("bert", AutoModelForMaskedLM), batch)
    one = {**batch, "labels": labels}
    for outputs, given in ((classifier, one), (multilabel, many), (bare, batch), (unlabelled, batch)):
        with pytest.raises(ValueError, match=rf"{type(outputs).__name__}.*AutoModelForMaskedLM"):
            LanguageModeling()(outputs, None, given)
