"""The plan of a large model's memory: its parts by hand, its direction, and its page."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from toy_language import language_model
from toy_models import tiny_config, tiny_model

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from memory_answers import flops
from memory_model import RUNTIME, WAYS, Plan, answer, counted, in_main_memory, on_a_cpu, predicted, vectors
from memory_page import points
from memory_passes import Model, desired_activations, episode_pass, in_depth, sizes

ROOT = Path(__file__).parents[2]
CONFIG = tiny_config("bert", layers=3)
MODEL = Model(CONFIG)
PLAN = Plan(CONFIG, "first_order", 4, batch=4, length=8)
IN_PLACE = replace(PLAN, episode="in_place")
DEEP = Model(language_model(num_hidden_layers=13).config, language=True)


def test_sizes_are_those_of_the_model():
    model = tiny_model("bert", layers=3)
    count = sum(p.numel() for p in model.parameters())
    layer = sum(p.numel() for p in model.bert.encoder.layer[0].parameters())
    width, unread = model.config.hidden_size, model.config.vocab_size - 7
    found = sizes(MODEL, 10**6)
    assert (found.live, found.moving, found.stored, found.fixed) == (count, count, count, 0)
    assert found.published == count - 2 * (width + 1)  # without the head
    assert found.group == max(layer, count - 3 * layer)
    assert sizes(MODEL, 7).moving == count - unread * width


def test_adapters_leave_the_rest_where_a_gradient_is_wanted():
    model = tiny_model("bert", layers=3)
    found, trunk = sizes(Model(CONFIG, adapters=True), 10**6), sum(p.numel() for p in model.bert.parameters())
    assert (found.fixed, found.published) == (trunk, 0)
    assert found.moving == found.stored < trunk
    tied, untied = (sizes(Model(language_model(tied=t).config, True, True), 10**6) for t in (True, False))
    table = language_model().lm_head.weight.numel()
    assert untied.moving - tied.moving == untied.published == table  # the published head is trained, if it is apart


@pytest.mark.parametrize(
    ("way", "steps", "short", "long"),
    [
        ("first_order", 4, 1 + 3 + 2, 2),  # g; x with two moments; two for the rate; a sum for each side
        ("exact_db", 1, 3 + 1 + 6, 2),  # a start; the gradient; for each side two moments and room; sums
        ("exact_fd", 4, 2 * 3 + 3 + 4 + 6 + 1, 4),  # two starts, a place between, four gradients, one to move in
        ("exact_fd_cpu", 4, 2 * (3 + 1) + 6 + 1, 4),  # two places and their gradients come back
        ("exact_fd_logarithmic", 32, 4 * 3 + 3 + 1 + 6 + 1, 4),  # four stored places, one that moves, its gradient
    ],
)
def test_vectors_are_counted_by_hand(way, steps, short, long):
    assert vectors(replace(PLAN, way=way, steps=steps)) == (short, long)


def test_a_hessian_vector_product_takes_more_than_a_gradient():
    activations = desired_activations(MODEL, 4, 8)
    assert activations < episode_pass(MODEL, 4, 8) < episode_pass(MODEL, 4, 8, twice=True)
    assert desired_activations(MODEL, 8, 8) == pytest.approx(2 * activations, rel=0.1)


def test_in_place_no_gradient_exists_twice_and_layers_recompute():
    long = {"batch": 32, "length": 16}
    gradients = 4 * sizes(MODEL, 10**6).live
    flat, in_place = (episode_pass(MODEL, 1, 2, in_place=i) for i in (False, True))
    assert in_place < gradients < flat
    assert episode_pass(MODEL, **long, in_place=True, checkpoints=True) < episode_pass(MODEL, **long, in_place=True)
    assert desired_activations(MODEL, **long, checkpoints=True) < desired_activations(MODEL, **long)


@pytest.mark.parametrize("options", [{}, {"in_place": True}, {"in_place": True, "checkpoints": True}], ids=str)
def test_of_deep_models_each_further_layer_takes_the_same(options):
    assert in_depth(DEEP, lambda few: episode_pass(few, 4, 16, **options)) == pytest.approx(
        episode_pass(DEEP, 4, 16, **options), rel=1e-3
    )


def test_more_processes_take_less_each_where_weights_are_sharded():
    alone = predicted(PLAN)
    shared = predicted(replace(PLAN, world=4, sharded=True))
    assert shared["weights"] == alone["weights"] / 4
    assert predicted(replace(PLAN, world=4))["weights"] == alone["weights"]
    assert alone["weights"] == 4 * sizes(MODEL, 0).live
    assert alone["AdamW"] == 2 * alone["weights"]
    assert alone["runtime"] == RUNTIME


def test_a_pool_lies_where_it_is_stored():
    many = replace(PLAN, pool=8)
    whole = 8 * 3 * 4 * counted(PLAN).stored
    assert predicted(many)["the pool"] == whole
    assert predicted(replace(many, pool_precision="bfloat16"))["the pool"] == whole / 2
    away = replace(many, pool_storage="cpu")
    assert predicted(away)["the pool"] == 0
    assert in_main_memory(away) == {"the pool (cpu)": whole}
    assert on_a_cpu(away) == predicted(many)
    assert predicted(away)["the pool's turn"] > predicted(many)["the pool's turn"]  # moments come to the device
    assert in_main_memory(many) == {}


def test_a_trajectory_in_main_memory_is_not_on_the_device():
    plan = replace(PLAN, way="exact_fd", steps=16)
    away = replace(plan, way="exact_fd_cpu")
    assert sum(predicted(away).values()) < sum(predicted(plan).values())
    assert in_main_memory(away)["the trajectory"] == 4 * (4 * 3 + 16) * counted(plan).moving


def test_the_answer_says_whether_it_fits():
    lines = answer(PLAN, 80.0).splitlines()[2:]
    assert len(lines) == len(WAYS)
    assert all(line.endswith("| yes |") for line in lines)
    assert all(line.endswith("| no |") for line in answer(PLAN, 0.05).splitlines()[2:])
    assert "_db" not in answer(IN_PLACE, 80.0)


def test_operations_are_counted_by_hand():
    one = 2 * sizes(MODEL, 10**6).live * 4 * 8
    plain = replace(PLAN, objectives=1)
    assert flops(plain) == one * (3 + 4 * 3 + 5 * 3)
    assert flops(replace(plain, way="exact_fd")) == flops(plain) + one * 4 * 2 * 3
    assert flops(replace(plain, checkpointing=True)) == flops(plain) + one
    assert flops(replace(plain, checkpointing=True, episode="in_place")) == pytest.approx(flops(plain) * 4 / 3)


def test_every_training_of_the_ledger_is_predicted():
    ledger = [json.loads(line) for line in (ROOT / "benchmarks" / "memory.jsonl").read_text().splitlines()]
    small = [line for line in ledger if not isinstance(line["model"], str)]
    assert len(small) >= 6
    for what, measured, plan in points([], small):
        assert sum(on_a_cpu(plan).values()) / 1e6 == pytest.approx(measured, rel=0.15), what


def test_the_table_of_the_documentation_is_the_page_s():
    page, text = ((ROOT / name).read_text(encoding="utf-8") for name in ("benchmarks/memory_model.md", "docs/scale.md"))
    lines = [line for line in text.splitlines() if line.startswith("| Llama-")]
    assert len(lines) == 12
    assert {*lines} <= {*page.splitlines()}
    eight = [line.split(" | ") for line in lines if "Llama-8B" in line]
    assert [cell for cells in eight for cell in cells[3:-1] if "**" in cell] == ["**79**", "**61**", "**72**"]
    assert all("**" in cells[6] for cells in eight if cells[1:3] != ["exact", "all"])
    said = text.partition(
        "By this model, 8 billion weights just fit on eight devices of 80 GB, in place with activation "
    )[2]
    assert said.replace("\n", " ").startswith(
        "checkpointing alone: 79 GB on each for first order, 61 where adversaries train LoRA adapters, 72 for `exact`"
    )


def test_every_process_joins_the_logits_of_all():
    plan = replace(PLAN, config=DEEP.config, language=True, world=4)
    words, rows = DEEP.config.vocab_size, 4 * PLAN.batch
    assert predicted(plan)["everyone's logits"] == 5 * 4 * rows * PLAN.length * words
    assert predicted(replace(plan, held_out=4))["everyone's logits"] == 5 * 4 * 4 * PLAN.length * words
    assert "everyone's logits" not in predicted(replace(plan, world=1))


def test_shards_alone_take_a_share_of_everything_but_one_group_and_activations():
    sharded = replace(PLAN, world=4, sharded=True, episode="in_place")
    found, alone = predicted(sharded), predicted(replace(IN_PLACE, moving=sizes(MODEL, 10**6).moving))
    published = 4 * sizes(MODEL, 10**6).moving
    assert found["the adversary's vectors"] == (alone["the adversary's vectors"] + published) / 4
    assert "whole weights" not in found
    assert flops(replace(sharded, adapters=True)) > flops(replace(sharded, episode="flat", adapters=True))
