"""The notebooks run from top to bottom, and what is committed is what they give."""

import itertools
import re

import nbformat
import pytest
from site_parts import ROOT

from run_notebooks import NOTEBOOKS, code_cells, executed, normalised, read  # isort: skip

ALL = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
MOST_BYTES = 300_000
OWN = re.compile(r"/(?:home|root|tmp|Users|work)/|site-packages|[A-Z]\w*Warning\b|\b\d\d:\d\d\b|\b20\d\d-\d\d-\d\d\b")
LINK = re.compile(r"\]\(([^)#]+)")


def text_of(output):
    """What an output says, figures left out."""
    said = output.get("text", "") + output.get("data", {}).get("text/plain", "")
    return said + "".join(output.get("traceback", []))


def kinds_of(notebook):
    return [[output.output_type for output in cell.outputs] for cell in code_cells(notebook)]


def test_there_are_notebooks():
    assert len(NOTEBOOKS) >= 3


@pytest.mark.slow
@ALL
def test_a_notebook_runs_as_it_is_committed(path, tmp_path):
    """No cell raises, and each one shows as many outputs, of the same kinds, as are committed; figures may differ."""
    committed = read(path)
    run = executed(committed, tmp_path)
    assert [cell.source for cell in run.cells] == [cell.source for cell in committed.cells]
    assert kinds_of(run) == kinds_of(committed), "run: python docs/run_notebooks.py"


@ALL
def test_what_is_committed_is_a_whole_run(path):
    """Every cell ran, in order and without an error; nothing of the machine or the day is left in what it shows."""
    notebook = read(path)
    nbformat.validate(notebook)
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)], "run: python docs/run_notebooks.py"
    assert all(cell.outputs for cell in cells)
    outputs = [output for cell in cells for output in cell.outputs]
    assert [text_of(output) for output in outputs if output.output_type == "error"] == []
    assert [found[0] for output in outputs if (found := OWN.search(text_of(output)))] == []
    assert normalised(read(path)) == notebook
    assert path.stat().st_size < MOST_BYTES


@ALL
def test_prose_stands_before_each_cell_and_at_both_ends(path):
    cells = read(path).cells
    assert [cells[0].cell_type, cells[-1].cell_type] == ["markdown", "markdown"]
    before = [one for one, cell in itertools.pairwise(cells) if cell.cell_type == "code"]
    assert {cell.cell_type for cell in before} == {"markdown"}
    assert cells[0].source.startswith("# ")
    assert "## Where to go next" in cells[-1].source


@ALL
def test_links_of_a_notebook_lead_somewhere(path):
    links = [link for cell in read(path).cells if cell.cell_type == "markdown" for link in LINK.findall(cell.source)]
    assert len(links) >= 3
    assert [link for link in links if not (path.parent / link).is_file()] == []
    assert {link for link in links if (path.parent / link).resolve().is_relative_to(ROOT)} == {*links}
