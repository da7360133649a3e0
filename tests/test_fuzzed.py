"""A slice of the random changes whose whole is in benchmarks/fuzz.md."""

import pytest
from fuzzed import KINDS, READ, REFUSED, tried

from hf_selfdestruct.report.report import AttackReport

INPUTS = 200  # of each kind, in every run of the tests


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_is_handed_in_is_read_or_refused(tmp_path, kind):
    found, _ = tried(kind, tmp_path, INPUTS)
    assert found[READ] + found[REFUSED] >= INPUTS
    assert found[READ] or kind == "texts as reports", "whatever was wrong, it was not the change alone"
    assert found[REFUSED], "nothing was refused: the changes change nothing"


@pytest.mark.parametrize("text", ["[" * 100_000, '{"runs": 1e999}'])
def test_texts_that_once_broke_the_reader(text):
    with pytest.raises(ValueError, match="not a report"):
        AttackReport.from_json(text)
