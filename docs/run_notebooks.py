"""Run the notebooks and write their outputs into them: `python docs/run_notebooks.py [NOTEBOOK ...]`.

Each one runs from top to bottom in an empty folder, without a network. What differs from run to run or from machine to
machine is left out: progress bars, notices on standard error, and times.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MOST_SECONDS = 480  # of a cell
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def read(path: Path) -> NotebookNode:
    """A notebook as it was committed."""
    return nbformat.read(path, as_version=4)


def executed(notebook: NotebookNode, folder: Path) -> NotebookNode:
    """Run a notebook in a folder, and return it with the outputs of this run alone.

    Args:
        notebook: The notebook; it stays as it is.
        folder: An empty folder, in which the notebook writes its files.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell raised.
    """
    run = nbformat.from_dict(notebook)
    for cell in code_cells(run):
        cell.outputs, cell.execution_count = [], None
    client = NotebookClient(
        run,
        timeout=MOST_SECONDS,
        kernel_name="python3",
        record_timing=False,
        resources={"metadata": {"path": str(folder)}},
    )
    client.execute(env=_variables(folder))
    return normalised(run)


def normalised(notebook: NotebookNode) -> NotebookNode:
    """A notebook with what is worth committing: its cells, what they print and return, and their figures."""
    notebook.metadata = nbformat.from_dict(METADATA)
    for cell in code_cells(notebook):
        cell.metadata = nbformat.from_dict({})
        cell.outputs = _joined([output for output in cell.outputs if _is_kept(output)])
    return notebook


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    """The cells that run."""
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _is_kept(output: Any) -> bool:
    if output.output_type == "stream":
        return output.name == "stdout"
    return output.output_type != "display_data" or "image/png" in output.data  # bars are displayed as text


def _joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Outputs, with what is printed at several times in one piece: notices between the pieces were left out."""
    found: list[NotebookNode] = []
    for output in outputs:
        if found and found[-1].output_type == output.output_type == "stream":
            found[-1].text += output.text
        else:
            found.append(output)
    return found


def _variables(folder: Path) -> dict[str, str]:
    """This checkout, one thread for the same sums everywhere, no network, and no settings of the user's."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    fixed = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONHASHSEED": "0", "COLUMNS": "130"}
    return {**os.environ, **fixed, "PYTHONPATH": path, "IPYTHONDIR": str(folder / ".ipython")}


if __name__ == "__main__":
    for path in [Path(name) for name in sys.argv[1:]] or NOTEBOOKS:
        with tempfile.TemporaryDirectory() as empty:
            nbformat.write(executed(read(path), Path(empty)), path)
