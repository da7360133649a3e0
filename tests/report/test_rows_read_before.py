"""A report and its card state how often the rows were read before, and which rows the scores are on."""

import dataclasses

import pytest
from made_reports import made_report

from hf_selfdestruct.publish.card import render
from hf_selfdestruct.publish.card_details import CardDetails
from hf_selfdestruct.report.checks import check_report
from hf_selfdestruct.report.facts import Readings
from hf_selfdestruct.report.tables import comparison_table


def of(**fields):
    report = made_report()
    return dataclasses.replace(report, tasks={"gender": dataclasses.replace(report.tasks["gender"], **fields)})


@pytest.mark.parametrize(
    ("earlier", "words"),
    [
        (Readings(), "the test rows of gender never and its development rows never, where they compared 0 results"),
        (Readings(1, 2, 14), "the test rows of gender once and its development rows 2 times, where they compared 14"),
        (Readings(3, 1, 7), "the test rows of gender 3 times and its development rows once, where they compared 7"),
    ],
)
def test_earlier_readings_are_one_sentence_of_report_and_card(earlier, words):
    report = of(earlier=earlier)
    for text in (report.table(), render(report, CardDetails())):
        assert " ".join(text.split()).count(f"Before this report, suites read {words}") == 1


def test_where_nobody_counts_nothing_is_said():
    for text in (made_report().table(), render(made_report(), CardDetails())):
        assert "Before this report" not in text


def test_scores_on_development_rows_are_never_called_test_scores():
    report = of(scored_on="development")
    card = render(report, CardDetails())
    assert "Development accuracy of the attack that" in card
    assert "attack seeds and development rows" in card
    assert "is the development loss from scratch" in " ".join(card.split())
    assert "commonest development label" in card
    for text in (report.table(), card, comparison_table([report, report], ["a", "b"])):
        for words in ("test accuracy", "test scores", "test rows", "test label", "Test accuracy", "test loss"):
            assert words not in " ".join(text.split())


def test_scores_on_different_rows_are_not_compared():
    with pytest.raises(ValueError, match="no blocked task in common"):
        comparison_table([made_report(), of(scored_on="development")], ["a", "b"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scored_on": "train"}, r"tasks\['gender'\]\.scored_on must be 'test' or 'development', got 'train'"),
        ({"earlier": Readings(0, -1)}, r"tasks\['gender'\]\.earlier: numbers of readings must be at least 0"),
    ],
)
def test_facts_that_cannot_be_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        check_report(of(**fields))
