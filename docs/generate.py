"""Write the tables that are read from the code and the tests: `python docs/generate.py`."""

from collections.abc import Callable
from pathlib import Path

import method_table
import paper_table
import support_table

DOCS = Path(__file__).resolve().parent
TABLES: dict[str, Callable[[], str]] = {
    "methods.md": method_table.presets,
    "parts.md": method_table.parts,
    "settings.md": method_table.settings,
    "papers.md": paper_table.papers,
    "attacks.md": paper_table.attacks,
    "suites.md": paper_table.suites,
    "models.md": support_table.models,
    "tasks.md": support_table.tasks,
    "trainers.md": support_table.trainers,
    "launchers.md": support_table.launchers,
    "refused.md": support_table.refused,
}

if __name__ == "__main__":
    for name, make in TABLES.items():
        (DOCS / "generated" / name).write_text(make(), encoding="utf-8")
