"""Plots: four readable pictures per blocked task, whatever the report lacks."""

import contextlib
import dataclasses
import itertools

import matplotlib.image
import numpy as np
import pytest
from made_reports import ROLES, made_report, made_run
from matplotlib.backends.backend_agg import FigureCanvasAgg

from hf_selfdestruct.report.attack_run import ROLES as ALL_ROLES
from hf_selfdestruct.report.plots import COLOURS, best_of, save_plots, score_against_examples

KINDS = ("score_against_examples", "cost_to_recover", "attacks_and_models", "expected_best")
FACTS = made_report().tasks["gender"]


def only(path):
    """The picture as an array of ``(height, width, 4)``."""
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert 5_000 < path.stat().st_size < 500_000
    pixels = matplotlib.image.imread(path)
    assert pixels.shape == (690, 1125, 4)
    assert pixels.var() > 0.005, "blank"
    return pixels


def with_curves(report):
    """Full fine-tuning that gains with every look."""

    def curved(run):
        if run.attack != "full fine-tuning":
            return run
        looks = tuple((step, run.selection.accuracy - 0.2 / step) for step in (10, 20, 40))
        return dataclasses.replace(run, curve=looks)

    return dataclasses.replace(report, runs=tuple(map(curved, report.runs)))


def coloured(pixels, colour):
    """Pixels of exactly this colour."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(pixels[..., :3] * 255 - wanted).max(axis=-1) < 2).sum())


def test_the_expected_best_is_the_mean_over_all_choices():
    values = [0.5, 0.7, 0.6, 0.7, 0.2]
    twin = [np.mean([max(chosen) for chosen in itertools.combinations(values, k)]) for k in range(1, 6)]
    np.testing.assert_allclose(best_of(values), twin, rtol=1e-12)
    np.testing.assert_array_equal(best_of(values[::-1]), best_of(values))
    assert len(best_of([])) == 0
    assert np.isfinite(best_of(np.linspace(0, 1, 5000)[:3000])).all()


def test_four_pictures_per_blocked_task(tmp_path):
    tasks = {"gender": FACTS, "age": FACTS, "topic": dataclasses.replace(FACTS, control=True)}
    report = made_report(tasks=tasks, extra=(made_run(task="age"), made_run(task="topic")))
    paths = save_plots(report, tmp_path / "new" / "plots")
    assert [p.name for p in paths] == [f"{kind}_{task}.png" for task in ("gender", "age") for kind in KINDS]
    assert sorted(paths) == sorted((tmp_path / "new" / "plots").iterdir())
    one, other = only(paths[0]), only(paths[4])
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("kind", [0, 1, 3], ids=[KINDS[i] for i in (0, 1, 3)])
def test_every_role_has_a_line(tmp_path, kind):
    assert set(COLOURS) == {*ALL_ROLES}
    pixels = only(save_plots(with_curves(made_report()), tmp_path)[kind])
    for role in ROLES:
        assert coloured(pixels, COLOURS[role]) > 300, role


@pytest.mark.parametrize("missing", ROLES)
def test_missing_role_has_no_line(tmp_path, missing):
    roles = tuple(r for r in ROLES if r != missing)
    pixels = only(save_plots(made_report(roles=roles), tmp_path)[0])
    whole = only(save_plots(made_report(), tmp_path / "whole")[0])
    # Not zero: the base model's grey is also that of smoothed text.
    assert coloured(pixels, COLOURS[missing]) < coloured(whole, COLOURS[missing]) / 2
    assert all(coloured(pixels, COLOURS[r]) > 300 for r in roles)


@pytest.mark.parametrize(
    "report",
    [
        made_report(runs=tuple(r for r in made_report().runs if r.seed == 0)),
        made_report(runs=(made_run(),)),
        made_report(runs=(made_run(failed=True),)),
        made_report(runs=()),
        made_report(runs=(made_run(accuracy=0.0), made_run(accuracy=1.0, seed=1))),
    ],
    ids=["one seed", "one run", "one failed run", "no run", "extremes"],
)
@pytest.mark.filterwarnings("error")
def test_thin_reports_are_drawn_without_a_warning(tmp_path, report):
    score, cost, heat, search = save_plots(report, tmp_path)
    for path in (score, cost, search):
        only(path)
    assert matplotlib.image.imread(heat).shape[1] == 1125


def test_attacks_outside_the_headline_raise_no_line(tmp_path):
    """An attack that starts from the undefended model reaches what it reaches, and is no recovery."""
    strong = made_run(attack="interpolation", examples=100, accuracy=0.99)
    inside = save_plots(made_report(), tmp_path / "without")
    outside = save_plots(made_report(extra=(strong,), attacks={"interpolation": {"outside": True}}), tmp_path / "with")
    same = [one.read_bytes() == other.read_bytes() for one, other in zip(inside, outside, strict=True)]
    assert same == [True, True, False, True], "only the map of attacks and models shows it"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["a very long name " * 20, "$\\frac{x$", "two\nlines", "\ud800", "\x1b[2J"])
def test_any_name_of_an_attack_can_be_drawn(tmp_path, name):
    heat = save_plots(made_report(extra=(made_run(attack=name, examples=100),)), tmp_path)[2]
    plain = save_plots(made_report(extra=(made_run(attack="x", examples=100),)), tmp_path / "plain")[2]
    pixels = matplotlib.image.imread(heat)
    assert pixels.shape == matplotlib.image.imread(plain).shape
    empty = (pixels[..., :3] > 0.99).all(axis=-1).mean()
    assert empty < 0.7, "the name left no room for the map"


def test_numbers_of_examples_do_not_run_into_each_other():
    """A refit has a few examples more than the budget before it."""
    budgets = (20, 29, 50, 71, 100, 105, 143, 1001, 1430)
    report = made_report(runs=tuple(made_run(examples=n, accuracy=0.6) for n in budgets))
    figure = score_against_examples(report, "gender")
    FigureCanvasAgg(figure).draw()
    boxes = [label.get_window_extent() for label in figure.axes[0].get_xticklabels() if label.get_text()]
    assert len(boxes) == len(budgets) - 1
    assert all(left.x1 + 2 < right.x0 for left, right in itertools.pairwise(boxes))


def test_equal_reports_are_equal_pictures(tmp_path):
    found = [[path.read_bytes() for path in save_plots(made_report(), tmp_path / name)] for name in "ab"]
    assert found[0] == found[1]
    assert len({*found[0]}) == len(KINDS)


def test_higher_scores_are_higher_lines(tmp_path):
    """Rows of the picture count from the top."""
    pixels = only(save_plots(made_report(), tmp_path)[0])

    def height(role):
        wanted = np.array([int(COLOURS[role][i : i + 2], 16) for i in (1, 3, 5)])
        rows, columns = np.nonzero(np.abs(pixels[..., :3] * 255 - wanted).max(axis=-1) < 2)
        return rows[(columns > 1000) & (rows < 500)].mean()  # the right end of the lines, above the legend

    assert height("base") < height("undefended") < height("hardened")


def test_nothing_is_written_outside_the_folder(tmp_path):
    """A task's name in somebody's report is no path."""
    for kind in KINDS:
        (tmp_path / "plots" / f"{kind}_").mkdir(parents=True)
    with contextlib.suppress(ValueError):
        report = made_report(tasks={"/../../evil": FACTS}, runs=(made_run(task="/../../evil"),))
        save_plots(report, tmp_path / "plots")
    assert not list(tmp_path.glob("*.png"))
