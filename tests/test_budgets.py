"""Short files and functions, docstrings and hints everywhere, one door."""

import ast

import pytest
from sources import FUNCTIONS, IN_ROOMS, NAME, ROOT, TREES, in_fresh_python

import hf_selfdestruct

HERE = ROOT.parent
MOST_LINES, MOST_FUNCTION_LINES, MOST_NAMES = 300, 50, 15


def functions(tree: ast.AST):
    return [node for node in ast.walk(tree) if isinstance(node, FUNCTIONS)]


# Budgets


@pytest.mark.parametrize("folder", [NAME, "tests", "benchmarks", "examples", "model_cards", "docs", "spaces"])
def test_files_are_short(folder):
    lines = {file.name: len(file.read_text(encoding="utf-8").splitlines()) for file in (HERE / folder).rglob("*.py")}
    assert lines
    assert {name: many for name, many in lines.items() if many > MOST_LINES} == {}


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
