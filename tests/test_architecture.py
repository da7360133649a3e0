"""Imports flow one way between folders, no files go in circles, and two walls stand."""

import ast
import graphlib
import shutil

import pytest
from sources import NAME, ROOT, in_fresh_python, modules, room_of

FLOORS = (  # each imports from those below it
    {"cli"},
    {"demo"},
    {"jobs"},
    {"trainer"},
    {"hardening"},
    {"publish", "attacks", "meta_gradient"},
    {"losses", "adversaries", "erasure"},
    {"tasks", "models"},
    {"report"},
    {"files", "untrusted_json"},
)
FLOOR = {room: -number for number, rooms in enumerate(FLOORS) for room in rooms}
INSIDE = {"attacks": ("suites", "methods")}  # folders within a folder, the upper first
ALLOWED = {  # walls: what these may import of the package, whatever stands below them
    "attacks": {"attacks", "tasks", "report", "files", "untrusted_json"},
    "publish": {"publish", "report", "files", "untrusted_json"},
    "report": {"report", "files", "untrusted_json"},
}
WITHOUT_TORCH = ("publish", "report")


def imports(root=ROOT):
    """For each file, the modules that it imports, wherever in it, those for type checkers included."""
    known = modules(root)
    found = {}
    for room, path in known.items():
        package = [*room.split(".")] if room else []
        if path.name != "__init__.py":
            package = package[:-1]
        found[room] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found[room] |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                start = [NAME, *package[: len(package) - node.level + 1]] if node.level else []
                module = ".".join([*start, *([node.module] if node.module else [])])
                inner = {f"{module}.{a.name}" for a in node.names}
                inner = {name for name in inner if name.removeprefix(f"{NAME}.") in known}
                found[room] |= inner or {module}
    return found


def own(names):
    """The package's modules among imported names, its front door (with the version) left out."""
    return {name.removeprefix(f"{NAME}.") for name in names if name.startswith(f"{NAME}.")}


def folder(room):
    return room.partition(".")[0]


def faults(root=ROOT):
    """Every arrow that goes up or through a wall, each as a sentence."""
    for room, names in imports(root).items():
        here = folder(room)
        for other in own(names) if room else ():
            there = folder(other)
            if here != there and FLOOR[there] >= FLOOR[here]:
                yield f"{room} imports {other}, which is not below it"
            if there not in ALLOWED.get(here, {there}):
                yield f"{room} imports {other} through a wall"
            if here == there and here in INSIDE and height(room) > height(other):
                yield f"{room} imports {other}, which is not below it"
        if here in WITHOUT_TORCH and {name.partition(".")[0] for name in names} & {"torch", "transformers"}:
            yield f"{room} imports torch or transformers"


def height(room):
    """Of a file in a folder with folders: its door stands above them, its own files below. From the top, from 0."""
    inner = room.split(".")[1] if "." in room else ""
    order = ("", *INSIDE[folder(room)])
    return order.index(inner) if inner in order else len(order)


def test_every_folder_has_a_floor():
    assert {folder(room) for room in modules()} - {""} == {*FLOOR}


def test_imports_go_down_and_walls_stand():
    assert [*faults()] == []


def test_no_files_go_in_circles():
    graph = {room: own(names) & {*modules()} for room, names in imports().items()}
    assert sum(map(len, graph.values())) > 200, "the reader of imports sees too few"
    assert len([*graphlib.TopologicalSorter(graph).static_order()]) == len(modules())


@pytest.mark.parametrize("defence", sorted({*FLOOR} - ALLOWED["attacks"]))
def test_a_planted_import_of_the_defence_is_found(tmp_path, defence):
    copy = tmp_path / NAME
    shutil.copytree(ROOT, copy)
    target = copy / "attacks" / "methods" / "probes.py"
    target.write_text(f"from ...{defence} import planted\n{target.read_text(encoding='utf-8')}", encoding="utf-8")
    assert any(f"imports {defence}" in fault for fault in faults(copy))


def test_evidence_is_read_without_a_model_at_run_time():
    rooms = ", ".join(f"{NAME}.{room}" for room in sorted(modules()) if folder(room) in WITHOUT_TORCH)
    loaded = in_fresh_python(f"import sys, {rooms}; print(sorted({{'torch', 'transformers'}} & {{*sys.modules}}))")
    assert loaded == "[]"


def test_only_hub_talks_to_the_hub():
    users = {
        room_of(path, ROOT)
        for path in modules().values()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if (isinstance(node, ast.alias | ast.Attribute) and "HfApi" in ast.unparse(node))
    }
    assert users == {"publish.hub"}
