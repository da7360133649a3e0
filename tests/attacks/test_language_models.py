"""The judge of language models: fine-tuning with the published head, an n-gram beside it, sums of rows on record."""

from __future__ import annotations

import dataclasses
import json
import math
import re

import numpy as np
import pytest
import torch
from toy_language import DESIRED, SUITE, WORDS, language_model, language_rows, language_task
from transformers import default_data_collator

from hf_selfdestruct.attacks import FullFineTuning, HeadOnly
from hf_selfdestruct.attacks.attack import Trial
from hf_selfdestruct.attacks.data import AttackData
from hf_selfdestruct.attacks.doubts import DESTROYED, destroyed
from hf_selfdestruct.attacks.methods.general import desired_texts
from hf_selfdestruct.attacks.methods.ngram import Counts, NGram
from hf_selfdestruct.attacks.target import Target
from hf_selfdestruct.attacks.tuning_doubts import edge_of_range, still_rising
from hf_selfdestruct.demo.reading import reading
from hf_selfdestruct.report.comparison import difference
from hf_selfdestruct.report.facts import DesiredFacts
from hf_selfdestruct.report.recovery import recovery
from hf_selfdestruct.report.references import general_lines
from hf_selfdestruct.report.report import AttackReport
from hf_selfdestruct.report.token_rows import (
    RIGHT,
    known_general,
    token_contributions,
    token_scores,
    unpacked_tokens,
)
from hf_selfdestruct.tasks.language_modeling import LANGUAGE_MODELING

COLUMNS = ["input_ids", "attention_mask"]


def fitted(jumps, seed=0, steps=60):
    """A model trained on rows of these languages."""
    model = language_model(seed=seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    rows = [row for jump in jumps for row in LANGUAGE_MODELING.padded([*map(dict, language_rows(48, 5, jump))])]
    for step in range(steps):
        batch = default_data_collator([rows[(7 * step + 11 * i) % len(rows)] for i in range(12)])
        model(**batch).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """A hardened model that is none (it knows the desired language alone), beside one that knows both."""
    folder = tmp_path_factory.mktemp("attacked")
    for name, jumps in (("base", ()), ("undefended", (DESIRED, 7)), ("hardened", (DESIRED,))):
        fitted(jumps, steps=60 if jumps else 0).save_pretrained(folder / name)
    targets = [Target(role, str(folder / role)) for role in ("base", "undefended", "hardened")]
    return SUITE.run(
        [*targets, Target("scratch", str(folder / "base"), random=True)],
        [language_task()],
        columns=COLUMNS,
        collate=default_data_collator,
        desired=desired_texts(language_rows(30, 8, DESIRED), language_rows(20, 9, DESIRED), COLUMNS),
        progress=False,
    )


def test_all_models_are_attacked_and_the_rows_are_on_record(report):
    assert {run.status for run in report.runs} == {"ok"}
    assert {run.role for run in report.runs} == {"base", "undefended", "hardened", "scratch", "raw"}
    assert AttackReport.from_json(report.to_json()) == report
    for run in report.runs:
        assert run.test.loss == -run.test.score > 0
        assert 0 <= run.test.extra[RIGHT] <= 1
        if run.chosen:
            assert token_scores(unpacked_tokens(run.predictions)) == run.test
            assert token_scores(unpacked_tokens(run.selected)).score == run.selection.score


def test_the_best_settings_are_chosen_on_the_selection_rows(report):
    for role in report.roles():
        for attack in ("full fine-tuning", "LoRA"):
            runs = [run for run in report.runs_of("sevens", 42, role) if run.attack == attack]
            assert len(runs) == 2
            assert max(runs, key=lambda run: run.selection.score).chosen


def test_who_knows_the_language_is_ahead(report):
    best = {role: report.strongest("sevens", 42, role).mean for role in report.roles()}
    assert best["undefended"] > best["hardened"] + 0.1
    assert best["undefended"] > report.tasks["sevens"].majority + 0.5
    apart = difference(report, "sevens", 42, "undefended", "hardened")
    assert apart.low > 0
    assert apart.mean == pytest.approx(best["undefended"] - best["hardened"])
    assert difference(report, "sevens", 42, metric="auc") is None
    cost = recovery(report, "sevens", "scratch")
    assert (cost.steps, cost.cells()[1]) == (None, "> 16")
    assert recovery(report, "sevens", "undefended").steps <= 16


def test_the_general_loss_stands_beside_every_look(report):
    tuned = [run for run in report.runs if run.role in report.roles()]
    assert {len(run.general) for run in tuned} == {3}
    assert {len(run.general) for run in report.runs if run.role == "raw"} == {0}
    before = {run.role: run.general[0] for run in tuned}
    assert {run.general[0] == before[run.role] for run in tuned} == {True}
    assert before["hardened"] < before["base"] - 1
    assert all(run.general[0] + run.desired_drop in map(pytest.approx, run.general[1:]) for run in tuned)


def test_gibberish_is_counted_before_and_after(report):
    """Random weights write gibberish; a model of the desired language does not, until it is tuned to another one."""
    for run in report.runs:
        assert len(run.gibberish) == (0 if run.role == "raw" or run.status != "ok" else 2)
    before = {run.role: run.gibberish[0] for run in report.runs if run.gibberish}
    assert {run.gibberish[0] == before[run.role] for run in report.runs if run.gibberish} == {True}
    assert before["base"] > before["hardened"] + 0.3
    (line,) = [line for line in general_lines(report, "sevens") if line.startswith("gibberish")]
    assert f"hardened {before['hardened']:.0%} → " in line


def test_the_demo_reads_losses(report):
    """Its model is destroyed, so that its sentence is about losses alone."""
    facts = report.tasks["sevens"]
    desired = DesiredFacts("", {"hardened": {"loss": 1.25}, "undefended": {"loss": 1.5}})
    first, second = reading(dataclasses.replace(report, desired=desired)).splitlines()
    roles = ("hardened", "undefended", "base", "scratch", "raw")
    losses = [f"{-report.strongest('sevens', 42, role).mean:.2f}" for role in roles]
    assert re.findall(r"\d+\.\d\d", first) == [*losses, f"{-facts.majority:.2f}"]
    assert "loss in nats per token" in first
    assert "nats per token (95 % interval" in second
    assert second.endswith("the desired text has a loss of 1.25 (hardened) and 1.50 (undefended).")


def test_a_destroyed_model_is_called_destroyed(report):
    def published(loss, lost=0.0):
        runs = [
            dataclasses.replace(r, general=(loss, loss + lost), desired_drop=lost) if r.role == "hardened" else r
            for r in report.runs
        ]
        return [*destroyed(dataclasses.replace(report, runs=tuple(runs)), "sevens")]

    losses = map(known_general, report.strongest_runs("sevens", 42, "undefended"))
    known, left = map(min, zip(*losses, strict=True))
    assert published(known + DESTROYED - 0.1, lost=left - known) == []
    first, *_ = published(known + DESTROYED + 0.1)
    assert f"destroyed: as it was published, the hardened model has a general loss of {known + 0.6:.3f}" in first
    assert re.search(r"gibberish among continuations of desired texts: .*\d+% \(hardened\)", first)
    (only,) = published(known, lost=left - known + DESTROYED + 0.1)
    assert "after the strongest attack" in only
    assert f"more than {left + DESTROYED:.3f}" in only


def test_a_rate_at_the_edge_of_the_search_is_a_doubt(report):
    told = "the edge of what was tried (0.001, 0.01)"
    assert any(told in check for check in report.checks)
    chosen = [run for run in report.runs if run.chosen and "learning_rate" in run.settings]
    within = [dataclasses.replace(r, settings={**r.settings, "learning_rate": 3e-3}) for r in chosen]
    others = [dataclasses.replace(r, chosen=False) for r in report.runs]
    assert [*edge_of_range(dataclasses.replace(report, runs=(*others, *within)), "sevens")] == []


def test_a_loss_that_still_falls_at_the_last_look_is_a_doubt(report):
    def curved(last):
        curve = ((8.0, -3.0), (16.0, last))
        runs = tuple(dataclasses.replace(r, curve=curve) if r.role == "hardened" else r for r in report.runs)
        return [*still_rising(dataclasses.replace(report, runs=runs), "sevens")]

    assert [line.partition(" still rises")[0] for line in curved(-2.9)] == [
        f"sevens: {name} with 42 examples" for name in ("full fine-tuning", "LoRA")
    ]
    assert curved(-2.99) == curved(-3.5) == []


def test_what_is_shown_speaks_of_no_classes(report):
    table = " ".join(report.table(width=400).split())
    assert "test log-likelihood per token after attack" in table
    assert "general loss (nats per token) before → after: base" in table
    assert "95 % intervals" in table
    assert not re.search("accuracy|commonest", table.replace("0.02 in accuracy", ""))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda run: run["test"].update(score=-0.1), "the score differs from that of the rows' tokens"),
        (lambda run: run.update(predictions="AAAA"), "not an array"),
        (lambda run: run.update(general=[-1.0]), "losses must be finite"),
        (lambda run: run.update(gibberish=[0.5, 1.5]), "expected two shares in [0, 1]"),
        (lambda run: run.update(gibberish=[0.5]), "expected two shares in [0, 1]"),
    ],
)
def test_a_report_whose_rows_do_not_give_its_score_is_refused(report, change, told):
    raw = json.loads(report.to_json())
    change(next(run for run in raw["runs"] if run["chosen"]))
    with pytest.raises(ValueError, match=re.escape(told)):
        AttackReport.from_json(json.dumps(raw))


def test_contributions_of_rows_are_those_of_a_ratio():
    """Their mean is the ratio, and their spread that of ratios over rows drawn anew."""
    generator = np.random.default_rng(0)
    tokens = generator.integers(5, 50, 400).astype(float)
    sums = np.stack([tokens * generator.gamma(5, 0.4, 400), tokens, 0 * tokens, 0 * tokens], axis=1)
    rows = token_contributions(sums)
    assert rows.mean() == pytest.approx(-sums[:, 0].sum() / tokens.sum())
    drawn = [sums[generator.integers(0, 400, 400)] for _ in range(1000)]
    spread = np.std([-one[:, 0].sum() / one[:, 1].sum() for one in drawn])
    assert rows.std() / math.sqrt(400) == pytest.approx(spread, rel=0.1)


def data_of(task=None):
    return AttackData.of(task or language_task(), COLUMNS, default_data_collator)


def test_the_n_gram_is_a_distribution_and_learns_the_rule():
    data = data_of()
    outcomes = {s["order"]: NGram().run(Trial(Target("raw", ""), data, 42, 0, s)) for s in NGram().space()[::2]}
    assert outcomes[2].test.score > outcomes[1].test.score + 0.5
    counts = Counts(data.train, 3, 10.0, WORDS)
    for before in ((), (3,), (3, 10), (39, 39)):
        assert sum(counts.chance(before, token) for token in range(WORDS)) == pytest.approx(1)


def test_the_attacker_keeps_the_published_head(tmp_path):
    model = fitted((DESIRED,), steps=3)
    model.save_pretrained(tmp_path)
    auto = LANGUAGE_MODELING.model_class
    loaded = Target("hardened", str(tmp_path)).load(0, 0, auto=auto)
    assert all(torch.equal(w, model.state_dict()[n]) for n, w in loaded.state_dict().items())
    one, other = (Target("scratch", str(tmp_path), random=True).load(0, seed, auto=auto) for seed in (0, 1))
    assert not torch.equal(one.lm_head.weight, other.lm_head.weight)


def test_an_attack_that_reads_classes_is_refused():
    suite = dataclasses.replace(SUITE, entries=(dataclasses.replace(SUITE.entries[0], attack=HeadOnly()),))
    with pytest.raises(ValueError, match="cannot attack task 'sevens', a next-token prediction, by head only"):
        suite.check_fits([language_task()])
    assert FullFineTuning().fits(LANGUAGE_MODELING)
