"""The attack report: a record with a table and JSON serialisation. No torch."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..files import read_text, write_whole
from ..untrusted_json import checked, parse_json
from .checks import check_report
from .facts import ACCURACY
from .record import SCHEMA_VERSION, Record
from .tables import report_table

BEFORE = 2  # the previous schema version, which is still read
LATER: dict[str, tuple[Any, ...]] = {  # field to the values with which it is left out of the file
    "score": (None, ACCURACY),
    "general": (None, ()),
    "gibberish": (None, ()),
    "scored_on": ("test",),
    "pairs": (False,),
    "earlier": (None,),
    "choosing": (False,),
    "rung": (None,),
}
MOST_BYTES = 256 * 1024 * 1024  # size limit; predictions are the largest part


@dataclass(frozen=True)
class AttackReport(Record):
    """The results of an attack suite: a :class:`Record` with a table and JSON serialisation.

    Example:
        ```python
        report = AttackReport.load("hardened/selfdestruct/report.json")
        text = report.table()
        ```
    """

    def table(self, *, width: int = 130) -> str:
        """Format the report as text: strongest attacks, every attack, differences, desired quality and doubts."""
        return report_table(self, width)

    def to_json(self) -> str:
        """The report as JSON, keys sorted, so that equal reports are equal texts."""
        return (
            json.dumps(dataclasses.asdict(self, dict_factory=_stated), indent=1, sort_keys=True, allow_nan=False) + "\n"
        )

    def save(self, path: str | Path) -> None:
        """Write the JSON atomically."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, self.to_json())

    @classmethod
    def from_json(cls, text: str) -> AttackReport:
        """Parse the JSON of :meth:`to_json`.

        Raises:
            ValueError: The text is not a report, or has another schema version; the message names the field.
        """
        try:
            raw = parse_json(text)
        except ValueError as error:
            raise ValueError(f"not a report: {error}") from None
        return _report_from(raw)

    @classmethod
    def load(cls, path: str | Path) -> AttackReport:
        """Read a report file.

        Raises:
            ValueError: The file is missing, too large or not a report.
        """
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"no report at {path}; check the path.")
        try:
            return cls.from_json(read_text(path, MOST_BYTES))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None


def _stated(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    """Fields as they are written: the later ones only where they say something, as reports were before them."""
    return {name: value for name, value in fields if name not in LATER or value not in LATER[name]}


def _report_from(raw: Any) -> AttackReport:
    # Check the version first: the fields of another version are not mistakes.
    version = raw.get("schema_version", SCHEMA_VERSION) if isinstance(raw, dict) else SCHEMA_VERSION
    if version not in (BEFORE, SCHEMA_VERSION):
        raise ValueError(f"report has schema_version {version!r}; this version reads {BEFORE} and {SCHEMA_VERSION}.")
    report: AttackReport = checked(AttackReport, _as_written_now(raw) if version == BEFORE else raw, "report")
    check_report(report)
    return dataclasses.replace(report, schema_version=SCHEMA_VERSION)


def _as_written_now(raw: dict[str, Any]) -> dict[str, Any]:
    """Convert a report of the previous schema version, in which ``desired`` had a key ``dataset`` among the roles."""
    desired = raw.get("desired")
    if not isinstance(desired, dict):
        return raw
    quality = {role: metrics for role, metrics in desired.items() if role != "dataset"}
    return raw | {"desired": {"dataset": desired.get("dataset", ""), "quality": quality}}
