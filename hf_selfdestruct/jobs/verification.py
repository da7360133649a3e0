"""Verify a folder or a repository against its manifest and signature, and state what that cannot prove."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from .. import __version__
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
    "the hashes are unsigned: they reveal accidents, not forgery. The author of these files could have written any "
    "report, and omitted runs leave no trace"
)
SIGNED = (
    "the signature matches this key and covers exactly these files: the key's owner vouches for the report. The "
    "signature does not prove that the numbers are true or that no run was omitted"
)


@dataclass(frozen=True)
class Verification:
    """The result of :func:`verify`.

    Attributes:
        name: A path, or ``owner/name@commit``.
        folder: Folder with the files.
        revision: Commit of a repository; empty for a folder.
        problems: One line per problem; empty if every check passed.
        files: Number of checked files, including the manifest.
        signed: Whether the signature was checked and matches the key.
        unchecked: Whether there is a signature but no key was given.
        written_by: Version of this package that wrote the manifest.
        adapter: Whether the folder contains only an adapter.
        planned: Whether the report was checked against its suite's plan.
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
        """Describe the result for a terminal: the verdict and, in the same line, what was not checked."""
        versions = f"{self.files} files, written by hf_selfdestruct {self.written_by}, read by {__version__}"
        if self.problems:
            more = [f"and {len(self.problems) - MOST_LINES} more"] if len(self.problems) > MOST_LINES else []
            shown = [*self.problems[:MOST_LINES], *more, f"{self.name}: verification FAILED ({versions})"]
        else:
            notes = f"; {SIGNATURE} was not checked: pass --public-key" if self.unchecked else ""
            notes += "" if self.planned else "; the report was not checked against its suite's plan"
            notes += "; the adapter's base is not part of the folder and was not checked" if self.adapter else ""
            shown = [f"{self.name}: every file matches ({versions}); {SIGNED if self.signed else UNSIGNED}{notes}"]
        return [printable(line) for line in shown]


def verify(
    source: str, *, revision: str | None = None, public_key: str | Path | None = None, files_only: bool = False
) -> Verification:
    """Check a hardened folder or repository against its manifest, its suite's plan and, with a key, its signature.

    Args:
        source: A folder, or ``owner/name`` of a repository, see :func:`repository_of`.
        revision: Branch, tag or commit of the repository; by default main.
        public_key: Key (PEM) to check the signature with; files that training leaves beside a model are then
            problems.
        files_only: Do not check the report against its suite's plan: for suites that are not shipped, and reports of
            earlier versions.

    Returns:
        The result.

    Raises:
        ValueError: The folder, its manifest or the key is missing or unreadable.
        ConnectionError: The Hub cannot be reached, or refuses.
    """
    folder, commit = found_at(source, revision)
    links = blobs_of(folder) if commit else None
    found = problems(folder, alone=public_key is not None, links=links)
    if not found and public_key is not None:
        found = signature_problems(folder, public_key, links=links)
    if not found and not files_only:
        from ..attacks.suites.audit import plan_problems  # loads torch, which files alone do not need

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
    """Find a folder, or fetch a repository from the Hub; return the folder and the commit of a repository.

    Args:
        source: See :func:`repository_of`.
        revision: Branch, tag or commit of a repository.

    Raises:
        ValueError: The folder does not exist, ``source`` is ambiguous, or a revision is given for a folder.
        ConnectionError: The Hub cannot be reached, or refuses.
    """
    if name := repository_of(source):
        folder = fetched(name, revision=revision)
        return folder, folder.name
    if revision:
        raise ValueError(f"{source} is a folder, and --revision applies only to a repository: remove it.")
    return Path(source), ""


def repository_of(source: str) -> str:
    """Return the name of the repository that ``source`` names; empty if it names a folder.

    Args:
        source: ``hf://owner/name`` is a repository. ``owner/name`` is one too, but ambiguous, and refused, if a folder
            of that name exists. Anything else is a folder.

    Raises:
        ValueError: The folder does not exist, or ``source`` is ambiguous.
    """
    name = source.removeprefix(HUB)
    is_name = bool(re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name))
    if name != source and not is_name:
        raise ValueError(f"{source} is not a repository; write {HUB}owner/name.")
    if name != source:
        return name
    if is_name and Path(source).is_dir():
        raise ValueError(
            f"{source} is a local folder, but could also be a model on the Hub: write ./{source} or {HUB}{source}."
        )
    if not is_name and not Path(source).is_dir():
        raise ValueError(f"no folder {source}; for a model on the Hub, write owner/name.")
    return name if is_name else ""
