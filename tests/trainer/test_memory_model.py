"""The plan of a large model's memory: its parts by hand, and its direction."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
from toy_models import tiny_config, tiny_model

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from memory_model import RUNTIME, WAYS, Plan, answer, passes, predicted, sizes, vectors

CONFIG = tiny_config("bert", layers=3)
PLAN = Plan(CONFIG, "first_order", 4, batch=4, length=8)


def test_sizes_are_those_of_the_model():
    model = tiny_model("bert", layers=3)
    count = sum(p.numel() for p in model.parameters())
    layer = sum(p.numel() for p in model.bert.encoder.layer[0].parameters())
    width = model.config.hidden_size
    assert sizes(CONFIG, 10**6) == (count, count, max(layer, count - 3 * layer))
    assert sizes(CONFIG, 7) == (count, count - (model.config.vocab_size - 7) * width, max(layer, count - 3 * layer))


@pytest.mark.parametrize(
    ("way", "steps", "count"),
    [
        ("first_order", 4, 1 + 3 + 2 + 2),  # g; x with two moments; a sum for each side; two for the rate
        ("exact_db", 1, 3 + 1 + 8),  # a start; the gradient; for each side a sum, two moments and room
        ("exact_fd", 4, 2 * 3 + 3 + 4 + 8 + 3),  # two starts, a place between, four gradients, three to move in
        ("exact_fd_logarithmic", 32, 4 * 3 + 3 + 1 + 8 + 3),  # four stored places, one that moves, its gradient
    ],
)
def test_vectors_are_counted_by_hand(way, steps, count):
    assert vectors(replace(PLAN, way=way, steps=steps)) == count


def test_a_hessian_vector_product_takes_more_than_a_gradient():
    once, activations = passes(CONFIG, 4, 8, twice=False)
    twice, _ = passes(CONFIG, 4, 8, twice=True)
    assert activations < once < twice
    assert passes(CONFIG, 8, 8, twice=False)[1] == pytest.approx(2 * activations, rel=0.1)


def test_more_processes_take_less_each_where_weights_are_sharded():
    alone = predicted(PLAN)
    shared = predicted(replace(PLAN, world=4, sharded=True))
    assert shared["weights"] == alone["weights"] / 4
    assert predicted(replace(PLAN, world=4))["weights"] == alone["weights"]
    assert alone["weights"] == 4 * sizes(CONFIG, 0)[0]
    assert alone["AdamW"] == 2 * alone["weights"]
    assert alone["runtime"] == RUNTIME
    assert predicted(replace(PLAN, pool=8)) == {**alone, "the pool": 8 * 3 * alone["weights"]}


def test_the_answer_says_whether_it_fits():
    lines = answer(PLAN, 80.0).splitlines()[2:]
    assert len(lines) == len(WAYS)
    assert all(line.endswith("| yes |") for line in lines)
    assert all(line.endswith("| no |") for line in answer(PLAN, 0.05).splitlines()[2:])
