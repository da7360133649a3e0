"""What the weights add: combinations of attacks with the raw input, chosen on the selection rows."""

import dataclasses

import numpy as np
import pytest
from made_reports import made_labels, made_probabilities, made_report, made_run

from hf_selfdestruct.attacks.metrics import scores
from hf_selfdestruct.publish.card import render
from hf_selfdestruct.publish.card_details import CardDetails
from hf_selfdestruct.report.facts import RowCounts
from hf_selfdestruct.report.packing import packed, packed_labels, rounded, unpacked
from hf_selfdestruct.report.report import AttackReport
from hf_selfdestruct.report.weights_add import ADDED_COLUMNS, added_rows, best_combination, combined, weights_add

LABELS, SELECTION = made_labels(300), made_labels(120, seed=1)
SEEDS = range(3)


def runs_of(role, attack, skill, first, *, selected=None, **fields):
    """Runs whose predictions know the labels with some skill; ``selected`` is the skill on the selection rows."""
    runs = []
    for seed in SEEDS:
        test = made_probabilities(LABELS, skill, first + seed)
        selection = made_probabilities(SELECTION, skill if selected is None else selected, 50 + first + seed)
        known = {
            "test": scores(LABELS, rounded(test)),
            "selection": scores(SELECTION, rounded(selection)),
            "predictions": packed(test),
            "selected": packed(selection),
        }
        runs.append(made_run(role=role, attack=attack, seed=seed, **known, **fields))
    return tuple(runs)


def report_of(*groups, **fields):
    facts = {"num_labels": 2, "majority": 0.5, "labels": packed_labels(LABELS), "selection": packed_labels(SELECTION)}
    return made_report(runs=sum(groups, ()), tasks={"gender": facts}, **fields)


def accuracy(labels, probabilities):
    return (probabilities.argmax(axis=1) == labels).mean()


RAW, SCRATCH = runs_of("raw", "raw input", 1.0, 0), runs_of("scratch", "head only", 0.3, 10)


def test_a_combination_is_the_normalised_product_of_powers():
    one, other = made_probabilities(LABELS, 0.5, 0), made_probabilities(LABELS, 0.5, 1)
    for share in (0.25, 0.5, 0.75):
        product = one ** (1 - share) * other**share
        mixed = combined([one, other], [1 - share, share])
        np.testing.assert_allclose(mixed, product / product.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(combined([one, one, one], [0.2, 0.3, 0.5]), one)


def test_the_difference_is_between_the_best_with_and_the_best_without():
    """Slow twin: every combination of every attack is scored on the selection rows, the best are scored on test."""
    hardened = runs_of("hardened", "head only", 0.9, 20), runs_of("hardened", "layer probe", 1.2, 30)
    report = report_of(RAW, SCRATCH, *hardened)

    def best(*groups):
        found = []
        for group in groups:
            for share in (0.0, 0.25, 0.5, 0.75):
                mixed = [
                    [combined([unpacked(getattr(run, split), 2) for run in pair], [1 - share, share])
                     for pair in zip(group, RAW, strict=True)]
                    for split in ("selected", "predictions")
                ]  # fmt: skip
                chosen, test = (
                    np.mean([accuracy(labels, one) for one in part])
                    for labels, part in zip((SELECTION, LABELS), mixed, strict=True)
                )
                found.append((chosen, test))
        return max(found)[1]

    without = best(RAW, SCRATCH)
    found = weights_add(report, "gender", 20)
    assert found.mean == pytest.approx(best(RAW, SCRATCH, *hardened) - without, abs=1e-12)
    assert found.low < found.mean < found.high
    assert found.attacks[0] == "layer probe with raw input"
    assert found.mean > 0.05, "two sources of different errors are better than one"


def test_weights_that_reveal_nothing_add_nothing():
    report = report_of(RAW, SCRATCH, runs_of("hardened", "head only", 0.0, 20))
    found = weights_add(report, "gender", 20)
    assert found.mean == pytest.approx(0, abs=0.02)
    assert added_rows(report, "gender")[0][-1] == "yes"
    assert len(added_rows(report, "gender")[0]) == len(ADDED_COLUMNS)


def test_with_all_examples_an_attacker_averages_over_seeds():
    """Three noisy seeds: their mean is chosen, and is better; with fewer examples each seed has other rows."""
    groups = RAW, SCRATCH, runs_of("hardened", "full fine-tuning", 0.7, 20)
    report = report_of(*groups)
    facts = dataclasses.replace(report.tasks["gender"], rows=RowCounts(20, 120, 300))
    whole = dataclasses.replace(report, tasks={"gender": facts})
    assert str(best_combination(whole, "gender", 20, "hardened")).endswith(", seeds averaged")
    assert not best_combination(report, "gender", 20, "hardened").averaged
    alone = [run.test.accuracy for run in groups[2]]
    parts = [unpacked(run.predictions, 2) for run in groups[2]]
    assert accuracy(LABELS, combined(parts, [1 / 3] * 3)) > max(alone)
    assert weights_add(whole, "gender", 20).attacks[0].endswith("seeds averaged")


def test_an_attacker_may_ignore_the_weights():
    """A model whose answers mislead: alone and combined it is worse than the raw input, which is chosen then."""
    report = report_of(RAW, SCRATCH, runs_of("hardened", "head only", -2.0, 20))
    assert best_combination(report, "gender", 20, "hardened", "raw", "scratch").role in ("raw", "scratch")
    assert weights_add(report, "gender", 20).mean == 0


def test_the_choice_is_made_on_the_selection_rows():
    """An attack that is better on test alone is not chosen."""
    lucky = runs_of("hardened", "lucky", 3.0, 20, selected=-1.0)
    report = report_of(RAW, SCRATCH, lucky, runs_of("hardened", "head only", 1.5, 30))
    assert best_combination(report, "gender", 20, "hardened").attack == "head only"


def test_optimism_counts_against_a_choice():
    lucky = runs_of("hardened", "searched", 1.6, 20, optimism=0.3)
    report = report_of(RAW, SCRATCH, lucky, runs_of("hardened", "head only", 1.5, 30))
    assert best_combination(report, "gender", 20, "hardened").attack == "head only"


def test_attacks_that_start_from_what_they_recover_stand_outside():
    merging = runs_of("hardened", "merging", 4.0, 20)
    attacks = {"merging": {"assumes": "the sibling", "outside": True}}
    report = report_of(RAW, SCRATCH, merging, runs_of("hardened", "head only", 0.5, 30), attacks=attacks)
    assert best_combination(report, "gender", 20, "hardened").attack == "head only"


@pytest.mark.parametrize("lacking", ["raw", "hardened", "scratch"])
def test_an_attack_without_predictions_of_the_selection_rows_does_not_count(lacking):
    report = report_of(RAW, SCRATCH, runs_of("hardened", "head only", 1.5, 30))
    bare = tuple(dataclasses.replace(r, selected="") if r.role == lacking else r for r in report.runs)
    report = dataclasses.replace(report, runs=bare)
    found = best_combination(report, "gender", 20, "hardened", "raw", "scratch")
    if lacking == "hardened":
        assert found.role in ("raw", "scratch")
        assert weights_add(report, "gender", 20) is None
    else:
        assert found.role == "hardened"
        assert lacking != "raw" or found.share == 0
        assert (weights_add(report, "gender", 20) is None) == (lacking == "raw")


def test_a_report_without_them_has_no_rows_and_is_read():
    report = made_report()
    assert weights_add(report, "gender", 20) is None
    assert added_rows(report, "gender") == []
    assert "What the weights add" not in report.table()


def test_reports_with_them_are_read_and_shown():
    report = report_of(RAW, SCRATCH, runs_of("hardened", "head only", 1.5, 30), runs_of("base", "head only", 2.5, 40))
    assert AttackReport.from_json(report.to_json()) == report
    table = report.table(width=250)
    assert "What the weights add" in table
    assert "head only with raw input" in table
    *_, hardened, undefended, base, _ = added_rows(report, "gender")[0]
    assert float(base.split()[0]) > float(hardened.split()[0])
    assert undefended == "not measured"
    card = render(report, CardDetails())
    assert "| raw input | the weights add | attack on hardened |" in card
    (row,) = [line for line in card.splitlines() if line.startswith("| gender | 20 | ")]
    assert row.endswith("**not blocked** | head only |")
    assert "| examples | best without weights | best with hardened weights |" in card


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            {"selected": packed(made_probabilities(SELECTION, 3.0, 9))},
            "selection accuracy differs",
        ),
        ({"selected": packed(made_probabilities(SELECTION[:9], 3.0, 9))}, r"selected: 9 rows, but the task has 120"),
        ({"selected": "no"}, "selected: not an array"),
    ],
)
def test_selection_predictions_that_do_not_fit_are_refused(change, named):
    report = report_of(RAW, SCRATCH, runs_of("hardened", "head only", 1.5, 30))
    edited = dataclasses.replace(report, runs=(*report.runs[:-1], dataclasses.replace(report.runs[-1], **change)))
    with pytest.raises(ValueError, match=named):
        AttackReport.from_json(edited.to_json())
