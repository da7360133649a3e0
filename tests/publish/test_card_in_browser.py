"""The rendered card in a real browser: every table whole, every plot there, and no words of strangers run."""

import json
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from made_reports import made_report
from markdown_it import MarkdownIt
from matplotlib import image

from hf_selfdestruct.publish.card import render
from hf_selfdestruct.publish.card_details import CardDetails

CARDS = sorted(p.parent for p in (Path(__file__).parents[2] / "model_cards").glob("*/README.md"))
STYLE = """
body { font: 16px/1.5 sans-serif; width: 1000px; margin: 2em auto }
td, th { border: 1px solid #ccc; padding: 4px 10px } img { max-width: 100% }
"""
# Told through the title, which the browser prints with the page.
LOOK = """<script>
window.onload = () => {
  const all = (what) => [...document.querySelectorAll(what)];
  document.title = JSON.stringify({
    headings: all("h2").map(h => h.textContent),
    images: all("img").map(i => i.naturalWidth),
    ragged: all("table").flatMap(t => [...t.rows].filter(r => r.cells.length != t.rows[0].cells.length)).length,
    rows: all("tr").length,
    loose: all("p").filter(p => p.textContent.includes("| ")).length,
    run: window.run || null,
  });
};
</script>"""
SECTIONS = [
    "Result",
    "Load it",
    "How it was trained",
    "Threat model, and what is not covered",
    "Doubts raised by the suite",
    "Release considerations",
    "Verify and reproduce",
    "Appendix: every attack",
    "Appendix: differences and costs",
    "Appendix: recipe",
    "Appendix: data",
]


def looked_at(card, folder, tmp_path):
    """What a browser makes of a card that lies in a folder; and its screenshot."""
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(card.split("---\n", 2)[2])
    page, picture = tmp_path / "card.html", tmp_path / "card.png"
    head = f"<!doctype html><meta charset=utf-8><base href='{folder.as_uri()}/'><style>{STYLE}</style>"
    page.write_text(f"{head}{html}{LOOK}")
    quiet = ["gpu", "quic", "background-networking", "component-update", "sync", "dev-shm-usage"]
    browser = shutil.which("chromium") or "chromium"  # `make test` installs it
    common = [browser, "--headless", "--no-sandbox", "--no-first-run", *(f"--disable-{name}" for name in quiet)]
    common += [f"--user-data-dir={tmp_path / 'profile'}", "--allow-file-access-from-files", "--window-size=1100,3000"]

    def ask(word):
        done = subprocess.run([*common, word, page.as_uri()], capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == 0, done.stderr
        return done.stdout

    ask(f"--screenshot={picture}")
    return json.loads(re.search(r"<title>(.*?)</title>", ask("--dump-dom"))[1].replace("&amp;", "&")), picture


@pytest.mark.parametrize("folder", CARDS, ids=lambda p: p.name)
def test_a_card_is_whole(folder, tmp_path):
    card = (folder / "README.md").read_text()
    found, picture = looked_at(card, folder, tmp_path)
    assert found["headings"] == SECTIONS
    assert len(found["images"]) == card.count("![") > 2
    assert all(width > 300 for width in found["images"])
    assert (found["ragged"], found["loose"]) == (0, 0)
    assert found["rows"] == len(re.findall(r"^\|(?!---)", card, re.MULTILINE))
    pixels = image.imread(picture)
    assert pixels.shape[:2] == (3000, 1100)
    assert pixels[..., :3].std() > 0.1, "an empty page"


def test_words_of_strangers_are_not_run(tmp_path):
    script = "<img src=x onerror='window.run=1'><script>window.run=1</script>"
    report = replace(made_report(), checks=(script,), recipe={script: script})
    found, _ = looked_at(render(report, CardDetails(title=script, contact=script)), tmp_path, tmp_path)
    assert found["headings"] == SECTIONS
    assert found["run"] is None
    assert found["images"] == []
