"""Fresh weights: nothing of the old ones is left, and everything else stays."""

from __future__ import annotations

import pytest
import torch

from hf_selfdestruct import heads
from hf_selfdestruct.initialization import fresh_weights


@pytest.mark.parametrize("architecture", ["bert", "gpt2"])
def test_embeddings_are_new_and_of_the_old_size(tiny_model, architecture: str) -> None:
    model = tiny_model(architecture)
    table = model.get_input_embeddings().weight
    with torch.no_grad():
        table.mul_(torch.linspace(0.5, 3, table.shape[1])).add_(torch.linspace(-1, 1, table.shape[1]))
    found = fresh_weights(model, "embeddings", seed=0)
    ((name, drawn),) = found.items()
    assert model.get_parameter(name) is table
    rows = len(table)
    torch.testing.assert_close(drawn.mean(0), table.mean(0), atol=5 * table.std().item() / rows**0.5, rtol=0)
    torch.testing.assert_close(drawn.std(0), table.std(0), rtol=5 / rows**0.5, atol=0)
    correlation = torch.corrcoef(torch.stack([(t - t.mean(0)).flatten() for t in (drawn, table.detach())]))[0, 1]
    assert correlation.abs() < 5 / table.numel() ** 0.5


def test_the_trunk_is_new_and_the_head_stays(tiny_model) -> None:
    model = tiny_model()
    found = fresh_weights(model, "trunk", seed=0)
    assert {*found} == {n for n, _ in model.named_parameters()} - {*heads.head_names(model)}
    matrices = [n for n, value in found.items() if value.dim() == 2]
    assert matrices
    assert not any(torch.equal(found[n], model.get_parameter(n)) for n in matrices)


@pytest.mark.parametrize("part", ["embeddings", "trunk"])
def test_a_seed_decides_and_the_global_generator_stays(tiny_model, part: str) -> None:
    model, before = tiny_model(), torch.random.get_rng_state()
    one, two, other = (fresh_weights(model, part, seed) for seed in (0, 0, 1))
    assert all(torch.equal(one[n], two[n]) for n in one)
    assert any(not torch.equal(one[n], other[n]) for n in one)
    assert torch.equal(before, torch.random.get_rng_state())


def test_wrong_parts(tiny_model) -> None:
    with pytest.raises(ValueError, match="embeddings, trunk; got 'head'"):
        fresh_weights(tiny_model(), "head", seed=0)
    with pytest.raises(ValueError, match="no table of input embeddings; use reinitialize='trunk'"):
        fresh_weights(tiny_model("resnet"), "embeddings", seed=0)


def test_hardening_starts_from_fresh_weights_and_its_references_do_not(make_trainer, tiny_model, tmp_path) -> None:
    model = tiny_model()
    before = model.get_input_embeddings().weight.detach().clone()
    trainer = make_trainer(tmp_path, model=model, reinitialize="embeddings", max_steps=1, learning_rate=1e-9)
    fresh = next(iter(fresh_weights(model, "embeddings", seed=trainer.args.seed).values()))
    trainer.train()
    torch.testing.assert_close(model.get_input_embeddings().weight.detach(), fresh, atol=1e-6, rtol=0)
    report = trainer.attack("smoke")
    assert report.recipe["reinitialize"] == "embeddings"
    for reference in ("_base", "_undefended"):
        kept = type(model).from_pretrained(tmp_path / reference).get_input_embeddings().weight.detach()
        torch.testing.assert_close(kept, before, atol=1e-6, rtol=0)
