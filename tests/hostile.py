"""Hostile folders, reports, repositories, endpoints and checkpoints: tried, and written down.

python tests/hostile.py benchmarks/hostile.md
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
# What each file tries, in the order of the table.
FILES = {
    "jobs/test_endpoint.py": "Endpoints that want the token, answer without end or not at all",
    "publish/test_signing.py": "Signatures of something else",
    "publish/test_hub_faults.py": "Pushes cut or doubled at each request",
    "publish/test_hub_repositories.py": "Repositories that are another's, public or renamed",
    "publish/test_staging.py": "What is staged for a push",
    "publish/test_leaks.py": "Secrets in files that would be published",
    "publish/test_layout.py": "What lies beside the published files",
    "publish/test_stock_loading.py": "What stock loaders would read",
    "test_hostile.py": "Hostile folders and repositories",
    "jobs/test_verification.py": "What verify says",
    "attacks/test_audit.py": "Cheating publishers",
    "jobs/test_rerun.py": "Invented numbers, and other weights under the evidence",
    "trainer/test_intact.py": "Damaged and foreign checkpoints",
    "publish/test_earlier.py": "Two trainings in one folder, and evidence of earlier weights",
    "attacks/test_changed.py": "Models that change under attack, and models that are partly random",
    "attacks/test_damaged_ledger.py": "Damaged ledgers",
    "report/test_report_checks.py": "Reports without end",
    "report/test_report_malformed.py": "Malformed reports",
    "test_schema.py": "JSON that readers read differently",
    "test_files.py": "Pipes, links and locks",
}


@dataclass(frozen=True)
class Try:
    """One hostile try, as pytest saw it."""

    file: str
    expected: str
    tried: str
    got: str


class Recorder:
    """A plugin of pytest that keeps what came of each test."""

    def __init__(self) -> None:
        self.tries: list[Try] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the end of each test, or the failure of what was to prepare it."""
        if report.when != "call" and report.passed:
            return
        file, _, name = report.nodeid.partition("::")
        name, _, case = name.partition("[")
        got = "as expected" if report.passed else "SKIPPED" if report.skipped else "SOMETHING ELSE"
        self.tries.append(
            Try(file.removeprefix("tests/"), name.removeprefix("test_").replace("_", " "), case.rstrip("]"), got)
        )


def table(tries: list[Try]) -> str:
    """The tries as Markdown, one table for each file."""
    counts = Counter(one.got for one in tries)
    lines = [
        "# Hostile tries",
        "",
        "What a stranger, a cheating publisher, a bad connection or an accident may do. Each line is a test that does "
        "it, against servers on loopback where there is a network in it. "
        "Made by `python tests/hostile.py benchmarks/hostile.md`.",
        "",
        f"{len(tries)} tries: {', '.join(f'{count} {got}' for got, count in sorted(counts.items()))}.",
    ]
    for file, title in FILES.items():
        lines += ["", f"## {title}", "", f"`tests/{file}`", "", "| tried | expected | got |", "|---|---|---|"]
        for one in (found for found in tries if found.file == file):
            tried = re.sub(r"[^\w .,:/'()*-]+", " ", one.tried).strip() or "-"
            lines.append(f"| {tried} | {one.expected} | {one.got} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    recorder = Recorder()
    words = ["-q", "-n", "2", "--rootdir", str(TESTS.parent), *(str(TESTS / file) for file in FILES)]
    code = pytest.main(words, plugins=[recorder])
    Path(sys.argv[1]).write_text(
        table(sorted(recorder.tries, key=lambda one: (one.file, one.expected))), encoding="utf-8"
    )
    sys.exit(code)
