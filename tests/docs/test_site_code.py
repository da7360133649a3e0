"""Code, commands, configurations and messages on the pages are those of the package."""

import ast
import builtins
import importlib
import inspect
import shlex

import pytest
from site_parts import DOCS, PAGES, ROOT, blocks, matches, source

from hf_selfdestruct.attacks.suites.shipped import SUITES
from hf_selfdestruct.cli.parser import parser_of
from hf_selfdestruct.hardening.renamed import renamed
from hf_selfdestruct.jobs.config import load_config

from method_table import cost  # isort: skip

PYTHON = [(page.stem, number, code) for page in PAGES for number, code in enumerate(blocks(page, "python"))]
COMMANDS = sorted({line for page in PAGES for code in blocks(page, "bash") for line in code.splitlines() if line})
RUNS = ("report", "methods", "how")  # pages whose code needs no data: it is run
LETTERS = 30


class Anything(dict):
    """Any command."""

    def __missing__(self, name):
        return name


@pytest.mark.parametrize("code", [code for *_, code in PYTHON], ids=[f"{page}-{number}" for page, number, _ in PYTHON])
def test_code_calls_what_there_is(code):
    """Imports are there, and every call of an imported name has arguments that it takes."""
    names = {}
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom):
            module = importlib.import_module(node.module)
            names |= {alias.name: getattr(module, alias.name) for alias in node.names}
    called = [n for n in ast.walk(ast.parse(code)) if isinstance(n, ast.Call) and ast.unparse(n.func) in names]
    for call in called:
        kind = names[ast.unparse(call.func)]
        given = {keyword.arg for keyword in call.keywords if keyword.arg}
        assert given <= {*inspect.signature(kind).parameters} | _of_bases(kind), ast.unparse(call)


def _of_bases(kind):
    """What a class takes that hands on the arguments it does not know."""
    bases = getattr(kind, "__mro__", ())
    return {name for base in bases if base is not object for name in inspect.signature(base).parameters}


@pytest.mark.parametrize("page", RUNS)
def test_code_without_data_runs(page, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    names = {"__name__": "page", "__builtins__": builtins}
    for code in blocks(DOCS / f"{page}.md", "python"):
        exec(compile(code, f"{page}.md", "exec"), names)
    assert len(names) > 3


@pytest.mark.parametrize("code", [c for _, _, c in PYTHON if "adversary=" in c or "method_options=" in c])
def test_settings_are_accepted(code):
    """Arguments whose values are literals make arguments of training."""
    from hf_selfdestruct import SelfDestructTrainingArguments

    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "SelfDestructTrainingArguments":
            given = {keyword.arg: ast.literal_eval(keyword.value) for keyword in node.keywords}
            SelfDestructTrainingArguments("unused", use_cpu=True, report_to="none", **given).filled("mlac")


@pytest.mark.parametrize("method", ["pool", "mlac"])
def test_the_quick_start_names_the_cost_of_methods(method):
    assert f"{cost(method):.3g} with `{method}`" in (DOCS / "quickstart.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_is_understood(line):
    words = shlex.split(line, comments=True)
    if "hf_selfdestruct.cli" in words:
        words = ["hf-selfdestruct", *words[words.index("hf_selfdestruct.cli") + 1 :]]
    if words[:1] == ["make"]:
        assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text(encoding="utf-8")
    if words[:1] != ["hf-selfdestruct"]:
        assert words[:1] in (["pip"], ["openssl"], ["make"], []), line
        return
    told, rest = parser_of(Anything()).parse_known_args(words[1:])
    assert not rest or told.command == "harden", rest
    for path in [word for word in words if word.startswith(("examples/", "model_cards/"))]:
        assert (ROOT / path).exists()
    if told.command == "harden":
        load_config(ROOT / "examples" / "bios.yaml", rest)


@pytest.mark.parametrize("message", [one.strip() for one in blocks(DOCS / "faq.md", "text")])
def test_an_error_message_stands_in_the_source(message):
    """Word for word; what is filled in may be anything, but long parts of it stand in the source as well."""
    if message == renamed({"adversary_learning_rate": 1e-3}):
        return
    found = matches(message)
    assert found, message
    best = max(found, key=lambda match: -sum(map(len, match.groups())))
    filled = [part for part in best.groups() if len(part) > LETTERS and part != ", ".join(SUITES)]
    assert [part for part in filled if not matches(part) and part not in source()] == []
