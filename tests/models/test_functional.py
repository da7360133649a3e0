"""Fast weights: layouts, forwards with given weights, and replayed randomness."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from toy_models import tiny_model, toy_batch

from hf_selfdestruct.models.functional import Layout, call, dropout, seeded


def everything(model) -> dict[str, torch.Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def inputs_of(batch) -> dict[str, torch.Tensor]:
    return {name: value for name, value in batch.items() if name != "labels"}


# Layouts


def named(seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"b": (3, 2), "a": (4,), "scalar": (), "none": (0, 5), "deep": (2, 1, 3)}
    return {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in shapes.items()}


def test_what_is_flattened_splits_into_itself() -> None:
    layout = Layout(named())
    flat = layout.flatten(named(1), like=torch.zeros(0))
    found = layout.split(flat)
    assert flat.shape == (3 * 2 + 4 + 1 + 2 * 3,)
    assert list(found) == list(named())
    assert all(torch.equal(found[name], value) for name, value in named(1).items())
    assert torch.equal(layout.flatten(dict(reversed(found.items())), like=flat), flat)  # its order, not the given one


def test_a_flat_vector_is_a_detached_copy_and_its_parts_are_views() -> None:
    layout, weights = Layout(named()), {name: value.requires_grad_() for name, value in named().items()}
    flat = layout.flatten(weights, like=torch.zeros(0))
    assert not flat.requires_grad
    flat += 1
    assert all(torch.equal(value, named()[name]) for name, value in weights.items())
    assert torch.equal(layout.split(flat)["a"], named()["a"] + 1)
    layout.split(flat)["a"].zero_()
    assert flat.eq(0).sum() == 4


def test_splitting_is_differentiable() -> None:
    layout = Layout(named())
    flat = layout.flatten(named(), like=torch.zeros(0)).requires_grad_()
    parts = layout.split(flat)
    loss = sum((i + 1) * value.pow(3).sum() for i, value in enumerate(parts.values()))
    (found,) = torch.autograd.grad(loss, flat)
    expected = {name: 3 * (i + 1) * value.square() for i, (name, value) in enumerate(named().items())}
    torch.testing.assert_close(found, layout.flatten(expected, like=flat))


def test_an_empty_layout_is_a_vector_of_no_weights() -> None:
    layout = Layout({})
    flat = layout.flatten({"ignored": torch.ones(2)}, like=torch.zeros(3, dtype=torch.float64))
    assert (flat.shape, flat.dtype) == ((0,), torch.float64)
    assert layout.split(flat) == {}


# Calls


def test_a_call_uses_the_given_weights_and_never_the_modules() -> None:
    model, other = tiny_model(seed=0).eval(), tiny_model(seed=1).eval()
    inputs, before = inputs_of(toy_batch()), {n: v.clone() for n, v in everything(model).items()}
    found = call(model, everything(other), inputs).logits
    assert torch.equal(found, other(**inputs).logits)
    assert not torch.equal(found, model(**inputs).logits)
    assert all(torch.equal(value, before[name]) for name, value in everything(model).items())


def test_a_call_passes_everything_on_that_the_forward_takes() -> None:
    model, batch = tiny_model().eval(), toy_batch()
    found = call(model, everything(model), {**batch, "output_hidden_states": True})
    assert torch.equal(found.loss, model(**batch).loss)
    assert len(found.hidden_states) == 3


def test_gradients_reach_the_given_weights_alone() -> None:
    model = tiny_model().eval()
    given = {name: value.detach().clone() for name, value in everything(model).items()}
    asked = given["classifier.weight"].requires_grad_()
    call(model, given, toy_batch()).loss.backward()
    assert asked.grad.any()
    assert all(p.grad is None for p in model.parameters())


def twice_differentiated(*, twice: bool) -> tuple[torch.Tensor, torch.Tensor]:
    model = tiny_model().double().eval()
    model.set_attn_implementation("sdpa")
    name = "bert.encoder.layer.0.attention.self.query.weight"
    weights = {n: v.detach().clone() for n, v in everything(model).items()}
    weight = weights[name].requires_grad_()
    loss = call(model, weights, toy_batch(), twice=twice).loss
    (gradient,) = torch.autograd.grad(loss, weight, create_graph=True)
    return gradient, torch.autograd.grad(gradient.sin().sum(), weight)[0]


def test_only_twice_differentiable_calls_survive_two_derivatives_of_fused_attention() -> None:
    with pytest.raises(RuntimeError, match="derivative"):
        twice_differentiated(twice=False)
    gradient, second = twice_differentiated(twice=True)
    assert gradient.any()
    assert second.any()


def test_twice_changes_no_value() -> None:
    model = tiny_model().double().eval()
    model.set_attn_implementation("sdpa")
    inputs = inputs_of(toy_batch())
    one, two = (call(model, everything(model), inputs, twice=twice).logits for twice in (False, True))
    torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-14)


# Randomness


def test_a_seed_replays_the_same_numbers_and_leaves_the_generator_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(6)
    torch.manual_seed(0)
    first = torch.rand(3)
    found = []
    for seed in (5, 5, 6):
        with seeded(seed, [torch.device("cpu")]):
            found.append(torch.rand(4))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert torch.equal(torch.cat([first, torch.rand(3)]), expected)


def test_a_seed_leaves_the_generator_alone_when_something_fails() -> None:
    state = torch.random.get_rng_state()
    with pytest.raises(KeyError), seeded(5):
        raise KeyError
    assert torch.equal(torch.random.get_rng_state(), state)


def test_no_seed_is_no_seed() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    with seeded(None, [torch.device("cpu")]):
        found = torch.rand(3)
    assert torch.equal(found, expected)


class Normalised(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Sequential(nn.Dropout(0.5), nn.SyncBatchNorm(4)))


def test_dropout_is_on_inside_and_off_afterwards_and_normalisation_never_trains() -> None:
    module = Normalised().eval()
    with dropout(module, on=True):
        assert [m.training for m in module.modules()] == [True, True, False, True, True, False]
    assert not any(m.training for m in module.modules())
    with dropout(module.train(), on=False):
        assert not any(m.training for m in module.modules())
    assert all(m.training for m in module.modules())  # each in its own mode again


def test_dropout_ends_when_something_fails() -> None:
    module = Normalised().eval()
    with pytest.raises(KeyError), dropout(module, on=True):
        raise KeyError
    assert not any(m.training for m in module.modules())


def test_replayed_dropout_draws_the_same_masks() -> None:
    model = tiny_model(dropout=0.3).eval()
    inputs, found = inputs_of(toy_batch()), []
    for seed in (3, 3, 4):
        with dropout(model, on=True), seeded(seed):
            found.append(call(model, everything(model), inputs).logits)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    with dropout(model, on=False), seeded(3):
        assert torch.equal(call(model, everything(model), inputs).logits, model(**inputs).logits)


def test_batch_statistics_are_neither_used_nor_changed() -> None:
    model = tiny_model("resnet").eval()
    pixels = {"pixel_values": torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))}
    expected, buffers = model(**pixels).logits, {n: b.clone() for n, b in model.named_buffers()}
    with dropout(model, on=True):
        assert torch.equal(call(model, everything(model), pixels).logits, expected)
    assert buffers
    assert all(torch.equal(b, buffers[n]) for n, b in model.named_buffers())
