"""The rooms and arrows of the design, its walls and its budgets, read from the source."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import hf_selfdestruct

NAME = "hf_selfdestruct"
ROOT = Path(__file__).resolve().parents[1] / NAME
LEVELS = (
    ("demo", "demo.grammar_words", "schema", "files", "runs"),
    ("tasks", "metrics", "comparison", "report_checks", "details", "fingerprint", "demo.grammar"),
    ("recovery", "attacks.data", "ranks", "readings"),
    ("tables", "termination"),
    ("report",),
    ("functional", "inner_optimizer", "head_adjustment", "blocking", "training_args", "heads", "guard"),
    ("attacks.target",),
    ("attacks.base", "attacks.optimizers", "attacks.tamper", "attacks.ledger", "attacks.checks"),
    ("attacks.search", "attacks.batches"),
    ("attacks.features", "attacks.benign"),
    ("attacks.training",),
    (
        "inner_optimizers",
        "learned",
        "keeping",
        "probes",
        "vocabulary",
        "erasure",
        "episode",
        "skeletons",
        "attacks.probes",
        "attacks.tuning",
        "attacks.sibling",
    ),
    ("adversary", "course", "losses", "initialization", "similarity", "attacks.references"),
    ("curvature", "trajectory", "attacks.job", "loss_checks"),
    ("adjoint", "attacks.workers"),
    ("meta_gradient", "meta_step", "attacks.suite"),
    ("presets", "plots", "card", "attacks.suites", "checkpoints", "scene", "trainer_checks"),
    ("manifest", "attacks", "simulation", "original"),
    ("keeper", "signing"),
    ("trainer_parts",),
    ("staging",),
    ("hub", "evidence"),
    ("trainer",),
    ("config",),
    ("corpus",),
    ("recipe",),
    ("demo.recipe", "rerun"),
    ("cli",),
)
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
DEFENCE = {
    *(
        "functional",
        "inner_optimizer",
        "inner_optimizers",
        "heads",
        "skeletons",
        "adversary",
        "learned",
        "losses",
        "head_adjustment",
    ),
    *(
        "keeping",
        "episode",
        "course",
        "curvature",
        "trajectory",
        "adjoint",
        "meta_gradient",
        "meta_step",
        "ranks",
        "readings",
        "termination",
        "trainer_parts",
        "scene",
        "simulation",
    ),
    *("keeper", "guard", "trainer", "original", "evidence", "erasure", "initialization"),
}
MOST_LINES, MOST_FUNCTION_LINES, MOST_NAMES = 300, 50, 15
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def room_of(path: Path) -> str:
    """``attacks/base.py`` is room ``attacks.base``; ``attacks/__init__.py`` is ``attacks``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {room_of(path): path for path in sorted(ROOT.rglob("*.py"))}
TREES = {room: ast.parse(path.read_text(encoding="utf-8")) for room, path in SOURCES.items()}
IN_ROOMS = pytest.mark.parametrize("room", sorted(TREES))


def statements(tree: ast.AST, *, everywhere: bool):
    """Import statements: everywhere, or only those that run when the module is imported."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        typing_only = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if everywhere or not (typing_only or isinstance(node, (*FUNCTIONS, ast.Lambda))):
            yield from statements(node, everywhere=everywhere)


def imported(room: str, *, everywhere: bool = False) -> set[str]:
    """Full dotted names of what a room imports, relative ones resolved; names of modules, not of objects."""
    package = [NAME, *room.split(".")] if room else [NAME]
    if SOURCES[room].name != "__init__.py":
        package.pop()
    found = set()
    for node in statements(TREES[room], everywhere=everywhere):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
            continue
        start = package[: len(package) - node.level + 1] if node.level else []
        module = ".".join([*start, *([node.module] if node.module else [])])
        inner = {f"{module}.{a.name}" for a in node.names if f"{module}.{a.name}".removeprefix(f"{NAME}.") in SOURCES}
        found |= inner or {module}
    return found


def own(names: set[str]) -> set[str]:
    """The rooms among imported names, the package's front door left out."""
    return {n.removeprefix(f"{NAME}.") for n in names if n.startswith(f"{NAME}.")}


def reachable(room: str) -> set[str]:
    """Everything a room imports, directly or through other rooms, also inside functions."""
    seen, waiting = set(), [room]
    while waiting:
        names = imported(waiting.pop(), everywhere=True)
        fresh = own(names) - own(seen)
        seen |= names
        waiting += [r for r in fresh if r in SOURCES]
    return seen


def functions(tree: ast.AST):
    return [node for node in ast.walk(tree) if isinstance(node, FUNCTIONS)]


def in_fresh_python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


# Arrows


def test_every_room_has_a_level():
    assert {*LEVEL} - {*SOURCES} == set(), "a level names a room that does not exist"
    assert {*SOURCES} - {*LEVEL} == {""}, "a room has no level"


@IN_ROOMS
def test_imports_go_down(room):
    level = LEVEL.get(room, -1)
    upward = {other for other in own(imported(room)) if LEVEL[other] >= level}
    # A package's own door stands above its rooms, and is entered whenever one of them is.
    assert not upward, f"{room} imports {sorted(upward)}"


def test_import_graph_has_no_cycle():
    graph = {room: own(imported(room)) & {*SOURCES} for room in SOURCES}
    assert sum(map(len, graph.values())) > 40, "the reader of imports sees too few"
    assert len([*graphlib.TopologicalSorter(graph).static_order()]) == len(SOURCES)


# Walls


@pytest.mark.parametrize("room", [room for room in sorted(SOURCES) if room.split(".")[0] == "attacks"])
def test_judge_imports_nothing_of_the_defence(room):
    assert not own(reachable(room)) & DEFENCE


@pytest.mark.parametrize("room", ["report", "card", "plots", "manifest"])
def test_evidence_is_read_without_a_model(room):
    assert not {name.split(".")[0] for name in reachable(room)} & {"torch", "transformers"}


def test_evidence_is_read_without_a_model_at_run_time():
    rooms = ", ".join(f"{NAME}.{room}" for room in ("report", "card", "manifest", "plots"))
    loaded = in_fresh_python(f"import sys, {rooms}; print(sorted({{'torch', 'transformers'}} & {{*sys.modules}}))")
    assert loaded == "[]"


def test_only_hub_talks_to_the_hub():
    users = {
        room
        for room, tree in TREES.items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.alias | ast.Attribute) and "HfApi" in ast.unparse(node))
    }
    assert users == {"hub"}


# Budgets


@IN_ROOMS
def test_file_is_short(room):
    lines = len(SOURCES[room].read_text(encoding="utf-8").splitlines())
    assert lines <= MOST_LINES, f"{SOURCES[room].name} has {lines} lines"


@IN_ROOMS
def test_functions_are_short(room):
    for function in functions(TREES[room]):
        body = function.body[1:] if ast.get_docstring(function) else function.body
        doc = function.body[0].end_lineno - function.body[0].lineno + 1 if len(body) < len(function.body) else 0
        lines = function.end_lineno - function.lineno + 1 - doc
        assert lines <= MOST_FUNCTION_LINES, f"{room}.{function.name} has {lines} lines"


def documented_methods() -> set[tuple[str, str]]:
    return {
        (node.name, method.name)
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        for method in functions(node)
        if ast.get_docstring(method)
    }


@IN_ROOMS
def test_what_is_public_has_a_docstring(room):
    inherited = documented_methods()
    tree = TREES[room]
    assert ast.get_docstring(tree), f"{room} has no docstring"
    for node in tree.body:
        if not isinstance(node, (*FUNCTIONS, ast.ClassDef)) or node.name.startswith("_"):
            continue
        assert ast.get_docstring(node), f"{room}.{node.name} has no docstring"
        for method in node.body if isinstance(node, ast.ClassDef) else []:
            if isinstance(method, FUNCTIONS) and not method.name.startswith("_"):
                bases = [ast.unparse(base) for base in node.bases]
                found = ast.get_docstring(method) or any((base, method.name) in inherited for base in bases)
                assert found, f"{room}.{node.name}.{method.name} has no docstring"


@IN_ROOMS
def test_every_argument_and_result_is_annotated(room):
    for function in functions(TREES[room]):
        where = f"{room}.{function.name}, line {function.lineno}"
        assert function.returns is not None, f"{where}: result"
        a = function.args
        for argument in (*a.posonlyargs, *a.args, *a.kwonlyargs, *(x for x in (a.vararg, a.kwarg) if x)):
            assert argument.annotation is not None or argument.arg in ("self", "cls"), f"{where}: {argument.arg}"


@IN_ROOMS
def test_no_stray_print_assert_or_blanket_except(room):
    for node in ast.walk(TREES[room]):
        line = getattr(node, "lineno", 0)
        assert not isinstance(node, ast.Assert), f"{room}, line {line}: assert"
        if isinstance(node, ast.Call):
            assert ast.unparse(node.func) != "print", f"{room}, line {line}: print"
        if isinstance(node, ast.ExceptHandler):
            caught = [] if node.type is None else [ast.unparse(n) for n in ast.walk(node.type)]
            assert caught, f"{room}, line {line}: bare except"
            assert not {"Exception", "BaseException"} & {*caught}, f"{room}, line {line}: blanket except"


# The door


def test_door_is_sorted_and_narrow():
    names = hf_selfdestruct.__all__
    assert names == sorted({*names})
    assert len(names) <= MOST_NAMES


def test_door_agrees_with_itself():
    """``__all__``, the lazy table and the imports for type checkers name the same objects in the same rooms."""
    (block,) = [n for n in TREES[""].body if isinstance(n, ast.If)]
    typed = {alias.name: node.module for node in block.body for alias in node.names}
    assert typed == hf_selfdestruct._ROOMS
    assert sorted(typed) == hf_selfdestruct.__all__
    star: dict[str, object] = {}
    exec(f"from {NAME} import *", star)
    assert sorted(set(star) - {"__builtins__"}) == hf_selfdestruct.__all__


@pytest.mark.parametrize("name", hf_selfdestruct.__all__)
def test_public_name_comes_from_its_room(name):
    found = getattr(hf_selfdestruct, name)
    room = hf_selfdestruct._ROOMS[name]
    assert found.__name__ == name
    assert f"{found.__module__}.".startswith(f"{NAME}.{room}.")
    assert found.__doc__


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="Adversry"):
        _ = hf_selfdestruct.Adversry


def test_importing_the_package_loads_nothing_heavy():
    heavy = "{'torch', 'transformers', 'datasets', 'numpy', 'optuna', 'sklearn'}"
    assert in_fresh_python(f"import sys, {NAME}; print(sorted({heavy} & {{*sys.modules}}))") == "[]"
