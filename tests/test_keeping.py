"""Keeping losses against slow twins, on padding, on real tiny models, and on what cannot be compared."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace

import pytest
import torch
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
    ResNetConfig,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
)

from hf_selfdestruct.keeping import (
    KEEPING_LOSSES,
    POOLINGS,
    EmbeddingDistillation,
    HiddenStateDistillation,
    KeepingLoss,
    LanguageModeling,
    LogitDistillation,
    keeping_loss,
    total,
)

ROWS, LENGTH, WIDTH, STATES = 3, 6, 4, 3
MASKS = {
    "none": None,
    "right": [[1, 1, 1, 1, 1, 1], [1, 1, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0]],
    "left": [[1, 1, 1, 1, 1, 1], [0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 1]],
    "empty row": [[1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0], [0, 1, 1, 0, 0, 0]],
}
TOLERANCE = {"rtol": 1e-11, "atol": 1e-13}
DISTILLATIONS = (
    LogitDistillation(),
    LogitDistillation(temperature=2.5),
    HiddenStateDistillation(),
    HiddenStateDistillation(layers=(0, -1)),
    *(EmbeddingDistillation(pooling=pooling) for pooling in POOLINGS),
)
ALL_DISTILLATIONS = pytest.mark.parametrize("loss", DISTILLATIONS, ids=repr)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def made(seed: int = 0) -> SimpleNamespace:
    """Outputs as a token-level model would give them."""
    states = tuple(draw(ROWS, LENGTH, WIDTH, seed=seed + 10 * i) for i in range(STATES))
    return SimpleNamespace(logits=draw(ROWS, LENGTH, 5, seed=seed + 99), hidden_states=states)


def batch_of(mask: list[list[int]] | None) -> dict[str, Tensor]:
    return {} if mask is None else {"attention_mask": torch.tensor(mask)}


def counted(mask: list[list[int]] | None) -> list[list[int]]:
    """The counted positions of every row."""
    return [[p for p in range(LENGTH) if mask is None or mask[row][p]] for row in range(ROWS)]


# Twins: one number at a time


def slow_kl(ours: Tensor, theirs: Tensor, temperature: float) -> float:
    q, p = ((z / temperature).exp() / (z / temperature).exp().sum() for z in (ours, theirs))
    return temperature**2 * sum(float(p[c] * math.log(p[c] / q[c])) for c in range(len(p)))


def slow_squares(vector: Tensor) -> float:
    return sum(float(value) ** 2 for value in vector)


def slow_distance(ours: Tensor, theirs: Tensor, places: list[tuple[int, ...]]) -> float:
    return sum(slow_squares(ours[at] - theirs[at]) for at in places) / sum(slow_squares(theirs[at]) for at in places)


def slow_pooled(states: Tensor, positions: list[int], pooling: str) -> Tensor:
    chosen = {"mean": positions, "first": positions[:1], "last": positions[-1:]}[pooling]
    return sum(states[p] for p in chosen) / len(chosen)


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_logit_distillation_of_rows_equals_its_twin_and_needs_no_mask(temperature) -> None:
    ours, theirs = (SimpleNamespace(logits=draw(ROWS, 4, seed=seed)) for seed in (0, 1))
    expected = sum(slow_kl(ours.logits[i], theirs.logits[i], temperature) for i in range(ROWS)) / ROWS
    value = LogitDistillation(temperature)(ours, theirs, batch_of(MASKS["left"]))
    assert value.shape == ()
    assert value.item() == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_logit_distillation_of_tokens_equals_its_twin(mask, temperature) -> None:
    ours, theirs = made(0), made(1)
    terms = [
        slow_kl(ours.logits[row, p], theirs.logits[row, p], temperature)
        for row, positions in enumerate(counted(mask))
        for p in positions
    ]
    value = LogitDistillation(temperature)(ours, theirs, batch_of(mask))
    assert value.item() == pytest.approx(sum(terms) / len(terms), rel=1e-11)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("layers", [None, (-1,), (0, 2), (-3,)])
def test_hidden_state_distillation_equals_its_twin(mask, layers) -> None:
    ours, theirs = made(0), made(1)
    places = [(row, p) for row, positions in enumerate(counted(mask)) for p in positions]
    chosen = range(STATES) if layers is None else layers
    terms = [slow_distance(ours.hidden_states[i], theirs.hidden_states[i], places) for i in chosen]
    value = HiddenStateDistillation(layers)(ours, theirs, batch_of(mask))
    assert value.item() == pytest.approx(sum(terms) / len(terms), rel=1e-11)


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_embedding_distillation_equals_its_twin(mask, pooling) -> None:
    ours, theirs = made(0), made(1)
    terms = []
    for row, positions in enumerate(counted(mask)):
        if positions:
            e, o = (slow_pooled(given.hidden_states[-1][row], positions, pooling) for given in (ours, theirs))
            terms.append(slow_squares(e - o) / slow_squares(o))
    value = EmbeddingDistillation(pooling)(ours, theirs, batch_of(mask))
    assert value.item() == pytest.approx(sum(terms) / len(terms), rel=1e-11)


def test_feature_maps_equal_their_twins() -> None:
    """Logits and states of shape (batch, channels, height, width)."""
    ours, theirs = (
        SimpleNamespace(logits=draw(2, 3, 4, 5, seed=seed), hidden_states=(draw(2, 3, 4, 5, seed=seed),))
        for seed in (0, 1)
    )
    places = [(row, slice(None), h, w) for row in range(2) for h in range(4) for w in range(5)]
    kl = sum(slow_kl(ours.logits[at], theirs.logits[at], 1.0) for at in places) / len(places)
    assert LogitDistillation()(ours, theirs, {}).item() == pytest.approx(kl, rel=1e-11)
    distance = slow_distance(ours.logits, theirs.logits, places)
    assert HiddenStateDistillation()(ours, theirs, {}).item() == pytest.approx(distance, rel=1e-11)
    rows = [slow_distance(ours.logits[i].mean((1, 2)), theirs.logits[i].mean((1, 2)), [(...,)]) for i in range(2)]
    assert EmbeddingDistillation()(ours, theirs, {}).item() == pytest.approx(sum(rows) / 2, rel=1e-11)


# What the values mean


@ALL_DISTILLATIONS
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_zero_at_equality_only_and_no_gradient_there(loss, mask) -> None:
    batch, there = batch_of(mask), made(0)
    here = made(0)
    leaves = [here.logits.requires_grad_(), *(state.requires_grad_() for state in here.hidden_states)]
    value = loss(here, there, batch)
    assert value.item() == 0
    for gradient in torch.autograd.grad(value, leaves, allow_unused=True):
        assert gradient is None or gradient.abs().max() < 1e-12
    assert loss(made(1), there, batch) > 0.1


def test_hidden_state_distance_has_no_unit() -> None:
    ours, theirs = made(0), made(1)
    small, little = (SimpleNamespace(hidden_states=[1e-3 * s for s in o.hidden_states]) for o in (ours, theirs))
    for loss in (HiddenStateDistillation(), EmbeddingDistillation()):
        torch.testing.assert_close(loss(small, little, {}), loss(ours, theirs, {}))
        zeros = SimpleNamespace(hidden_states=[torch.zeros_like(s) for s in theirs.hidden_states])
        assert loss(zeros, theirs, {}).item() == pytest.approx(1.0)
        assert loss(zeros, zeros, {}).item() == 0  # a dead layer is no division by zero
        assert loss(theirs, zeros, {}).isfinite()


def test_embedding_distance_bounds_the_angle_and_sees_the_length() -> None:
    for seed in range(20):
        here, there = draw(1, 1, WIDTH, seed=seed), draw(1, 1, WIDTH, seed=seed + 100)
        value = EmbeddingDistillation()(*(SimpleNamespace(hidden_states=(s,)) for s in (here, there)), {})
        assert 1 - torch.cosine_similarity(here, there, dim=-1).square() <= value + 1e-12
    longer = SimpleNamespace(hidden_states=(2 * there,))  # the cosine is 1
    assert EmbeddingDistillation()(longer, SimpleNamespace(hidden_states=(there,)), {}).item() == pytest.approx(1.0)


def test_temperature_keeps_the_size_of_the_gradient() -> None:
    """For T far above the logits, T^2 KL tends to half their centred squared distance over C, whatever T."""
    ours, theirs = (SimpleNamespace(logits=draw(ROWS, 4, seed=seed)) for seed in (0, 1))
    gap = ours.logits - theirs.logits
    limit = (gap - gap.mean(-1, keepdim=True)).square().mean(-1).mean() / 2
    assert LogitDistillation(1e3)(ours, theirs, {}).item() == pytest.approx(limit.item(), rel=1e-2)


@ALL_DISTILLATIONS
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("garbage", [1e3, math.inf, math.nan])
def test_more_padding_changes_nothing(loss, side, garbage) -> None:
    mask = torch.tensor(MASKS[side])
    before = loss(made(0), made(1), {"attention_mask": mask})
    extra = (3, 0) if side == "left" else (0, 3)

    def padded(seed: int) -> tuple[SimpleNamespace, list[Tensor]]:
        given = made(seed)
        leaves = [
            torch.nn.functional.pad(values, (0, 0, *extra), value=garbage).requires_grad_()
            for values in (given.logits, *given.hidden_states)
        ]
        return SimpleNamespace(logits=leaves[0], hidden_states=tuple(leaves[1:])), leaves

    ours, leaves = padded(0)
    wider = torch.nn.functional.pad(mask, extra)
    value = loss(ours, padded(1)[0], {"attention_mask": wider})
    torch.testing.assert_close(value, before, **TOLERANCE)
    for gradient in torch.autograd.grad(value, leaves, allow_unused=True):
        if gradient is not None:
            assert gradient.isfinite().all()
            assert gradient[wider == 0].abs().sum() == 0


def test_half_precision_outputs_are_compared_in_float32() -> None:
    ours, theirs = (SimpleNamespace(logits=draw(ROWS, 4, seed=seed).bfloat16()) for seed in (0, 1))
    value = LogitDistillation()(ours, theirs, {})
    exact = LogitDistillation()(*(SimpleNamespace(logits=o.logits.double()) for o in (ours, theirs)), {})
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(exact.item(), rel=1e-5)


def test_no_gradient_reaches_the_original() -> None:
    for loss in DISTILLATIONS:
        ours, theirs = made(0), made(1)
        for values in (ours.logits, theirs.logits, *ours.hidden_states, *theirs.hidden_states):
            values.requires_grad_()
        loss(ours, theirs, {}).backward()
        assert all(values.grad is None for values in (theirs.logits, *theirs.hidden_states))


# Real models


@pytest.fixture
def build(tiny_model):
    """Makes a tiny model of any kind in float64, without dropout: ``build("vit", AutoModel, seed=1)``."""

    def make(kind: str, auto: type, *, seed: int = 0) -> PreTrainedModel:
        usual = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
        if kind == "vit":
            config = ViTConfig(**usual, image_size=8, patch_size=4)
        elif kind == "resnet":
            config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 12], depths=[1, 1], layer_type="basic")
        else:
            config = tiny_model(kind).config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return auto.from_config(config).double().eval()

    return make


def inputs_of(kind: str) -> dict[str, Tensor]:
    if kind in ("vit", "resnet"):
        return {"pixel_values": draw(3, 3, 8, 8, seed=5)}
    ids = torch.randint(3, 60, (3, 6), generator=torch.Generator().manual_seed(5))
    return {"input_ids": ids, "attention_mask": torch.tensor(MASKS["right"])}


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


# Names, weights, mistakes


@pytest.mark.parametrize("name", KEEPING_LOSSES)
def test_names(name) -> None:
    loss = keeping_loss(name)
    assert type(loss) is KEEPING_LOSSES[name]
    assert type(loss).__name__.lower() == name.replace("_", "")
    assert loss.citation
    assert loss.config() == {"name": type(loss).__name__, **vars(loss)}
    assert json.dumps(loss.config())
    assert loss.wants_hidden_states == (name in ("hidden_state_distillation", "embedding_distillation"))
    assert loss.wants_labels == (name == "language_modeling")


def test_unknown_name_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"embedding_distillation.*got 'logits'"):
        keeping_loss("logits")


def test_total_is_the_weighted_sum() -> None:
    first, second = LogitDistillation(weight=0.5), HiddenStateDistillation(weight=3.0)
    ours, theirs, batch = made(0), made(1), batch_of(MASKS["right"])
    expected = 0.5 * first(ours, theirs, batch) + 3.0 * second(ours, theirs, batch)
    assert first(ours, theirs, batch) == LogitDistillation()(ours, theirs, batch)  # the weight is applied once
    torch.testing.assert_close(total([first, second], ours, theirs, batch), expected)
    assert total([], ours, theirs, batch).item() == 0


def test_base_class_is_abstract() -> None:
    with pytest.raises(TypeError, match="abstract"):
        KeepingLoss()


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan, math.inf])
@pytest.mark.parametrize("kind", KEEPING_LOSSES.values())
def test_weight_is_positive_and_finite(kind, weight) -> None:
    with pytest.raises(ValueError, match=rf"{kind.__name__}: weight.*{weight}"):
        kind(weight=weight)


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (LogitDistillation, {"temperature": 0.0}, r"temperature.*got 0\.0"),
        (LogitDistillation, {"temperature": math.inf}, "temperature.*got inf"),
        (HiddenStateDistillation, {"layers": ()}, r"layers.*got \(\)"),
        (HiddenStateDistillation, {"layers": ("last",)}, "layers.*'last'"),
        (HiddenStateDistillation, {"layers": 2}, "layers.*got 2"),
        (EmbeddingDistillation, {"pooling": "max"}, "pooling.*mean, first, last.*'max'"),
    ],
)
def test_wrong_arguments(kind, arguments, message) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**arguments)


@pytest.mark.parametrize("layer", [3, -4, 12])
def test_layer_out_of_range_is_named_with_their_number(layer) -> None:
    with pytest.raises(ValueError, match=f"layer {layer} .* are {STATES}"):
        HiddenStateDistillation(layers=(0, layer))(made(0), made(1), {})


def test_missing_outputs_get_the_cure(build) -> None:
    batch = inputs_of("bert")
    bare, classifier = (build("bert", auto)(**batch) for auto in (AutoModel, AutoModelForSequenceClassification))
    with pytest.raises(ValueError, match=r"BaseModelOutput\w* has no logits; give a model with a task head"):
        LogitDistillation()(bare, bare, batch)
    with pytest.raises(ValueError, match="has no logits"):
        LogitDistillation()(classifier, bare, batch)
    for loss in (HiddenStateDistillation(), EmbeddingDistillation()):
        with pytest.raises(ValueError, match="has no hidden_states; call the model with output_hidden_states=True"):
            loss(classifier, classifier, batch)


def test_what_cannot_be_compared_is_refused() -> None:
    ours, theirs = made(0), made(1)
    short = SimpleNamespace(logits=theirs.logits[..., :1], hidden_states=theirs.hidden_states[:2])
    with pytest.raises(ValueError, match=r"\(3, 6, 5\), the original \(3, 6, 1\)"):
        LogitDistillation()(ours, short, {})
    with pytest.raises(ValueError, match="3 hidden states, the original 2"):
        HiddenStateDistillation()(ours, short, {})
    with pytest.raises(ValueError, match="one class have no distribution; use Hidden"):
        LogitDistillation()(short, short, {})
    feature_map = SimpleNamespace(last_hidden_state=draw(2, 3, 4, 5))
    with pytest.raises(ValueError, match="no first position; use pooling='mean'"):
        EmbeddingDistillation("first")(feature_map, feature_map, {})
    for mask in (torch.ones(3, 5), torch.zeros(3, 6)):  # of another length; nothing counted
        with pytest.raises(ValueError, match=r"\(3, [56]\) with \d+ counted positions .* 3 rows of 6 positions"):
            LogitDistillation()(ours, theirs, {"attention_mask": mask})


def test_encoder_decoder_mask_is_not_taken_for_the_decoder() -> None:
    model = T5ForConditionalGeneration(T5Config(vocab_size=60, d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2))
    batch = inputs_of("t5")
    outputs = model(**batch, decoder_input_ids=batch["input_ids"])
    with pytest.raises(ValueError, match="encoder-decoder"):
        LogitDistillation()(outputs, outputs, batch)
