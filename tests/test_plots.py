"""Plots: one readable picture per blocked task, whatever the report lacks."""

import contextlib

import matplotlib.image
import numpy as np
import pytest
from made_reports import ROLES, made_report, made_run

from hf_selfdestruct.plots import COLOURS, save_plots
from hf_selfdestruct.report import ROLES as ALL_ROLES

FACTS = made_report().tasks["gender"]


def only(path):
    """The picture as an array of ``(height, width, 4)``."""
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert 5_000 < path.stat().st_size < 500_000
    pixels = matplotlib.image.imread(path)
    assert pixels.shape == (690, 1125, 4)
    assert pixels.var() > 0.005, "blank"
    return pixels


def coloured(pixels, colour):
    """Pixels of exactly this colour."""
    wanted = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)])
    return int((np.abs(pixels[..., :3] * 255 - wanted).max(axis=-1) < 2).sum())


def test_one_picture_per_task(tmp_path):
    report = made_report(tasks={"gender": FACTS, "age": FACTS}, extra=(made_run(task="age"),))
    paths = save_plots(report, tmp_path / "new" / "plots")
    assert [p.name for p in paths] == ["score_against_examples_gender.png", "score_against_examples_age.png"]
    one, other = map(only, paths)
    assert not np.array_equal(one, other)


def test_every_role_has_a_line(tmp_path):
    assert set(COLOURS) == {*ALL_ROLES}
    pixels = only(save_plots(made_report(), tmp_path)[0])
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
    only(save_plots(report, tmp_path)[0])


def test_equal_reports_are_equal_pictures(tmp_path):
    (one,), (other,) = save_plots(made_report(), tmp_path / "a"), save_plots(made_report(), tmp_path / "b")
    assert one.read_bytes() == other.read_bytes()


def test_higher_scores_are_higher_lines(tmp_path):
    """Rows of the picture count from the top."""
    pixels = only(save_plots(made_report(), tmp_path)[0])

    def height(role):
        wanted = np.array([int(COLOURS[role][i : i + 2], 16) for i in (1, 3, 5)])
        rows, columns = np.nonzero(np.abs(pixels[..., :3] * 255 - wanted).max(axis=-1) < 2)
        return rows[columns > 900].mean()  # the right end of the lines, beside the legend

    assert height("base") < height("undefended") < height("hardened")


def test_nothing_is_written_outside_the_folder(tmp_path):
    """A task's name in somebody's report is no path."""
    (tmp_path / "plots" / "score_against_examples_").mkdir(parents=True)
    with contextlib.suppress(ValueError):
        report = made_report(tasks={"/../../evil": FACTS}, runs=(made_run(task="/../../evil"),))
        save_plots(report, tmp_path / "plots")
    assert not list(tmp_path.glob("*.png"))
