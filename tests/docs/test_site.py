"""The documentation builds without a warning, its links lead somewhere, and its tables and figures are the code's."""

import re
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

import pytest
from site_parts import DOCS, FENCE, PAGES, ROOT

from evidence_pages import PAGES as EVIDENCE  # isort: skip
from evidence_pages import text_of  # isort: skip
from generate import TABLES  # isort: skip

ALL = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)


class Page(HTMLParser):
    """What a page of the built site points at, and what it can be pointed at."""

    def __init__(self, text):
        super().__init__()
        self.links, self.anchors, self.pictures = [], set(), []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        if tag in ("a", "link", "script", "img"):
            self.links += [given[name] for name in ("href", "src") if given.get(name)]
        if tag == "img":
            self.pictures.append(given.get("alt", ""))


def test_every_link_inside_the_site_leads_somewhere(site):
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    assert len(pages) >= 30
    followed = 0
    for path, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            assert target.is_file(), f"{path.name}: {link}"
            if parts.fragment and target in pages:
                assert unquote(parts.fragment) in pages[target].anchors, f"{path.name}: {link}"
            followed += 1
    assert followed > 1000
    assert all(page.pictures == [*filter(None, page.pictures)] for page in pages.values()), "a picture without words"


def test_nothing_is_loaded_from_elsewhere(site):
    """A page that is read on a computer without a network looks as it does with one."""
    for path in site.rglob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert not re.findall(r'<(?:script|img|iframe)[^>]+src="(?:https?:)?//|<link[^>]+stylesheet[^>]+"https?:', text)


def test_every_page_is_in_the_menu():
    menu = (DOCS / "index.md").read_text(encoding="utf-8")
    listed = re.findall(r"^(?:[\w :()-]+ <)?([\w/-]+)>?$", menu, re.MULTILINE)
    written = {path.relative_to(DOCS).with_suffix("").as_posix() for path in DOCS.rglob("*.md")}
    assert {*listed} == {name for name in written if not name.startswith("generated/")} - {"index"}


@pytest.mark.parametrize("name", TABLES)
def test_a_generated_table_is_as_committed(name):
    assert TABLES[name]() == (DOCS / "generated" / name).read_text(encoding="utf-8"), "run: python docs/generate.py"


@pytest.mark.parametrize("page", EVIDENCE)
def test_a_page_of_evidence_names_its_file(page):
    assert (DOCS / f"{page}.md").read_text(encoding="utf-8") == f"`{EVIDENCE[page]}`\n"
    assert len(text_of(page)) > 300


@ALL
def test_a_page_quotes_figures_of_the_evidence_that_it_links_to(page):
    """Each score with three decimals or more stands in a committed table that the page links to."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    linked = [text_of(name.removesuffix(".md")) for name in {*re.findall(r"\]\((evidence/[\w-]+\.md)", text)}]
    known = {figure for source in linked for figure in re.findall(r"[\d.]+", source)}
    quoted = {*re.findall(r"(?<![\d.])[01]\.\d{3,}", text)}
    assert quoted <= known, sorted(quoted - known)


@ALL
def test_a_file_that_a_page_names_exists(page):
    text = page.read_text(encoding="utf-8")
    folders = "examples|notebooks|benchmarks|tests|model_cards|docs|hf_selfdestruct"
    named = re.findall(rf"\b((?:{folders})/[\w/.-]*[\w/])", text)
    assert [name for name in named if not (ROOT / name).exists()] == []
