"""Pages that are files of the repository: the evidence, as it was committed.

A page of the site names its file in its only line. Links to files that are pages too lead to these pages; what any
other link pointed at is shown as the path of a file of the repository.
"""

import os
import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
PAGES = {
    "evidence/cards": "model_cards/README.md",
    "evidence/withdrawn": "model_cards/withdrawn.md",
    "evidence/diffusion": "benchmarks/diffusion.md",
    "evidence/card-animals": "model_cards/cifar10-animals/README.md",
    "evidence/card-article": "model_cards/wikibios-same-article/README.md",
    "evidence/card-general": "model_cards/wikibios-general/README.md",
    "evidence/worth": "model_cards/lab/worth.md",
    "evidence/relearned": "model_cards/lab/relearned.md",
    "evidence/recipes": "model_cards/lab/recipes.md",
    "evidence/ablations": "model_cards/lab/ablations.md",
    "evidence/raw-pairs": "model_cards/lab/raw_pairs.md",
    "evidence/pool": "benchmarks/pool.md",
    "evidence/pictures": "benchmarks/pictures.md",
    "evidence/language": "benchmarks/language.md",
    "evidence/meta-gradient": "benchmarks/meta_gradient.md",
    "evidence/memory": "benchmarks/memory_model.md",
    "evidence/precision": "benchmarks/precision.md",
    "evidence/reduction": "benchmarks/reduction.md",
    "evidence/short-runs": "benchmarks/short_runs.md",
    "evidence/weak-scaling": "benchmarks/weak_scaling.md",
    "evidence/long-run": "benchmarks/long_run.md",
    "evidence/faults": "benchmarks/faults.md",
    "evidence/fuzz": "benchmarks/fuzz.md",
    "security": "SECURITY.md",
    "changelog": "CHANGELOG.md",
}
LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")
FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)


def read(_app: Any, page: str, source: list[str]) -> None:
    """Put the file of such a page in the place of the page's source."""
    if page in PAGES:
        source[0] = text_of(page)


def text_of(page: str) -> str:
    """A committed file as a page of the site."""
    file = ROOT / PAGES[page]
    text = FRONT_MATTER.sub("", file.read_text(encoding="utf-8"), count=1)
    return LINK.sub(lambda found: _linked(found, page, file), text)


def _linked(found: re.Match[str], page: str, file: Path) -> str:
    target, text = found["target"], found["text"]
    if target.startswith(("http://", "https://", "mailto:", "#")):
        return found[0]
    path, _, anchor = target.partition("#")
    place = Path(os.path.normpath(file.parent / path))
    here = (DOCS / page).parent
    if found["image"]:
        return f"![{text}]({os.path.relpath(place, here)})"
    pages = {ROOT / name: other for other, name in PAGES.items()}
    if place in pages:
        other = os.path.relpath(DOCS / pages[place], here)
        return f"[{text}]({other}.md{'#' + anchor if anchor else ''})"
    name = place.relative_to(ROOT).as_posix()
    return f"{text} (`{name}`)" if text != name else f"`{name}`"
