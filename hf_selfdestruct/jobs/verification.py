"""Verification: a folder or a repository held against its manifest and its signature, and what that cannot show."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from .. import __version__
from ..attacks.suites.audit import plan_problems
from ..files import printable
from ..publish.hub import blobs_of, fetched
from ..publish.layout import REPORT, SIGNATURE
from ..publish.manifest import problems, read_manifest
from ..publish.signing import signature_problems
from ..publish.stock_loading import ADAPTER_CONFIG
from ..report.report import AttackReport

HUB = "hf://"
MOST_LINES = 50
UNSIGNED = (
    "the hashes are unsigned: they reveal accidents, not forgery. Whoever wrote these files could write any report, "
    "and runs that were left out leave no trace"
)
SIGNED = (
    "the signature is of this key and covers exactly these files: the key's owner vouches for the report. Whether its "
    "numbers are true, and no run was left out, the signature does not show"
)


@dataclass(frozen=True)
class Verification:
    """What :func:`verify` found.

    Attributes:
        name: What was verified: a path, or ``owner/name@commit``.
        folder: Where its files lie.
        revision: Commit of a repository; empty for a folder.
        problems: One line per problem; none when everything agrees.
        files: How many files were checked, the manifest among them.
        signed: Whether the signature was checked and is of the key.
        unchecked: Whether there is a signature, and no key was given.
        written_by: Version of this package that wrote the manifest.
        adapter: Whether the folder holds only an adapter.
        planned: Whether the report was held against its suite's plan.
    """

    name: str
    folder: Path
    revision: str
    problems: tuple[str, ...]
    files: int
    signed: bool
    unchecked: bool
    written_by: str
    adapter: bool
    planned: bool

    def lines(self) -> list[str]:
        """The finding, for a terminal: a verdict and, in the same line, what was not shown."""
        versions = f"{self.files} files, written by hf_selfdestruct {self.written_by}, read by {__version__}"
        if self.problems:
            more = [f"and {len(self.problems) - MOST_LINES} more"] if len(self.problems) > MOST_LINES else []
            shown = [*self.problems[:MOST_LINES], *more, f"{self.name}: does not agree ({versions})"]
        else:
            told = f"; {SIGNATURE} was not checked: give --public-key" if self.unchecked else ""
            told += "" if self.planned else "; the report was not checked against its suite's plan"
            told += "; the base of this adapter is no part of it, and was not checked" if self.adapter else ""
            shown = [f"{self.name}: every file agrees ({versions}); {SIGNED if self.signed else UNSIGNED}{told}"]
        return [printable(line) for line in shown]


def verify(
    source: str, *, revision: str | None = None, public_key: str | Path | None = None, files_only: bool = False
) -> Verification:
    """Hold a hardened folder, or one on the Hub, against its manifest, its suite's plan and, with a key, its signature.

    Args:
        source: A folder, or ``owner/name`` of a repository, see :func:`found_at`.
        revision: Branch, tag or commit of the repository; by default main.
        public_key: Key (PEM) to check the signature with; what training leaves beside a model is a problem then.
        files_only: Do not hold the report against its suite's plan: for suites that are not shipped, and reports of
            earlier versions.

    Returns:
        What was found.

    Raises:
        ValueError: There is no such folder, it has no readable manifest, or there is no such key.
        ConnectionError: The Hub cannot be reached, or refuses.
    """
    folder, commit = found_at(source, revision)
    links = blobs_of(folder) if commit else None
    found = problems(folder, alone=public_key is not None, links=links)
    if not found and public_key is not None:
        found = signature_problems(folder, public_key, links=links)
    if not found and not files_only:
        found = plan_problems(AttackReport.load(folder / REPORT))
    manifest, signature = read_manifest(folder, links=links), (folder / SIGNATURE).is_file()
    return Verification(
        name=f"{source.removeprefix(HUB)}@{commit}" if commit else str(folder),
        folder=folder,
        revision=commit,
        problems=tuple(found),
        files=len(manifest.files) + 1,
        signed=public_key is not None and not found,
        unchecked=signature and public_key is None,
        written_by=manifest.hf_selfdestruct,
        adapter=ADAPTER_CONFIG in manifest.files,
        planned=not files_only,
    )


def found_at(source: str, revision: str | None = None) -> tuple[Path, str]:
    """The folder that somebody named, and its commit where it was fetched from the Hub.

    Args:
        source: ``hf://owner/name`` is a repository. ``owner/name`` is one too, unless there is such a folder here:
            neither is meant then. All else is a folder.
        revision: Of a repository.

    Raises:
        ValueError: There is no such folder, both could be meant, or a folder has no revision.
        ConnectionError: The Hub cannot be reached, or refuses.
    """
    name, path = source.removeprefix(HUB), Path(source)
    is_name, is_folder = bool(re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name)), path.is_dir()
    if source.startswith(HUB) and not is_name:
        raise ValueError(f"{source} is no repository; a model on the Hub is named {HUB}owner/name.")
    if name == source and is_folder and is_name:
        raise ValueError(
            f"{source} is a folder here, and could be a model on the Hub: write ./{source} or {HUB}{source}."
        )
    if name == source and is_folder:
        if revision:
            raise ValueError(f"{source} is a folder, and --revision is of a repository: leave it out.")
        return path, ""
    if not is_name:
        raise ValueError(f"no folder {source}; a model on the Hub is named owner/name.")
    folder = fetched(name, revision=revision)
    return folder, folder.name
