"""The demo's last words say what its table says, and no more than is certain."""

import re

import pytest
from made_reports import made_labels, made_probabilities, made_report, predicted_report

from hf_selfdestruct.demo.reading import last_words, reading

LABELS = made_labels()


def report_of(*, undefended: float, hardened: float):
    """A report of three seeds a model, with the skill of each model."""
    skills = {"base": 2.0, "undefended": undefended, "hardened": hardened, "scratch": 0.6, "raw": 0.8}
    found = {role: [made_probabilities(LABELS, skill, seed) for seed in range(3)] for role, skill in skills.items()}
    return predicted_report(LABELS, found)


@pytest.mark.parametrize("hardened", [0.4, 2.0])
def test_every_score_is_that_of_the_table(hardened):
    report = report_of(undefended=2.0, hardened=hardened)
    first, second = reading(report).splitlines()
    assert first.startswith("An attacker with 20 examples of the blocked task (gender) gets ")
    roles = ("hardened", "undefended", "base", "scratch", "raw")
    scores = [f"{report.strongest('gender', 20, role).mean:.2f}" for role in roles]
    assert re.findall(r"\d\.\d\d", first) == [*scores, f"{report.tasks['gender'].majority:.2f}"]
    assert second.endswith("the desired task is predicted with 0.81 (hardened) and 0.84 (undefended).")


def test_an_effect_is_stated_only_where_its_interval_excludes_zero():
    clear, none = report_of(undefended=2.0, hardened=0.4), report_of(undefended=2.0, hardened=2.0)
    (taken, low, high), less = (
        [float(number) for number in re.findall(r"-?\d\.\d\d", reading(one).splitlines()[1])[:3]]
        for one in (clear, none)
    )
    assert reading(clear).splitlines()[1].startswith("Hardening took ")
    assert 0 < low < taken < high
    assert reading(none).splitlines()[1].startswith("No effect of hardening is certain: ")
    assert less[1] <= 0


def test_what_was_not_measured_is_not_stated():
    words = reading(made_report())  # without predictions there is no interval
    assert "What hardening took was not measured" in words
    assert "the input alone gives an unmeasured score" in words


def test_last_words_name_files_and_commands(tmp_path):
    words = last_words(made_report(), tmp_path, command=".venv/bin/hf-selfdestruct")
    for named in (f"{tmp_path}/README.md", f".venv/bin/hf-selfdestruct verify {tmp_path}", "harden mine.yaml"):
        assert named in words
