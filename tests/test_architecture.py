"""Imports flow one way, and two walls stand."""

import ast
import graphlib

import pytest
from sources import FUNCTIONS, IN_ROOMS, NAME, SOURCES, TREES, in_fresh_python

LEVELS = (
    ("demo", "demo.grammar_words", "schema", "files", "runs", "strict_yaml", "sections", "rows", "served"),
    ("layout", "tasks", "metrics", "comparison", "report_checks", "details", "fingerprint", "demo.grammar"),
    (
        "stock_loading",
        "sentence_files",
        "endpoint",
        "leaks",
        "recovery",
        "attacks.data",
        "ranks",
        "readings",
        "ingredients",
        "starter",
        "images",
        "positions",
    ),
    ("tables", "termination", "intact"),
    ("report",),
    ("functional", "inner_optimizer", "head_adjustment", "blocking", "training_args", "heads", "guard", "precision"),
    ("attacks.target", "given", "given_optimizer"),
    ("attacks.base", "attacks.optimizers", "attacks.tamper", "attacks.ledger", "attacks.checks"),
    ("attacks.search", "attacks.batches"),
    ("attacks.features", "attacks.benign"),
    ("attacks.training", "rehearsal"),
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
    ("meta_gradient", "meta_step", "attacks.suite", "card_tables"),
    ("presets", "plots", "card", "attacks.suites", "scene", "trainer_checks"),
    ("manifest", "attacks", "simulation", "original", "attacks.audit", "outer_step", "cost"),
    ("keeper", "signing", "earlier", "provenance", "plainly", "sentence_encoder"),
    ("trainer_parts",),
    ("checkpoints",),
    ("staging", "undefended"),
    ("hub", "evidence"),
    ("endings", "verification"),
    ("trainer",),
    ("config",),
    ("processors", "label_order", "sources"),
    ("corpus", "model_checks"),
    ("recipe",),
    ("demo.recipe", "rerun"),
    ("arguments",),
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
        "intact",
        "trainer_parts",
        "scene",
        "simulation",
    ),
    *("keeper", "guard", "trainer", "original", "evidence", "undefended", "erasure", "initialization"),
}


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


@pytest.mark.parametrize("room", ["report", "card", "plots", "manifest", "signing"])
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
