"""The packaging files agree with each other and with the installed package."""

import ast
import configparser
import importlib.metadata
import os
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
RUNTIME = {canonicalize_name(r.name): r for r in map(Requirement, PROJECT["dependencies"])}
EXTRAS = {
    canonicalize_name(r.name): r for extra in PROJECT["optional-dependencies"].values() for r in map(Requirement, extra)
}

# Names that setup.cfg and pyproject.toml give to the same thing.
SETUP_CFG_TO_PROJECT = {
    "author": "authors",
    "author-email": "authors",
    "extras-require": "optional-dependencies",
    "install-requires": "dependencies",
    "license-file": "license-files",
    "long-description": "readme",
    "maintainer": "maintainers",
    "maintainer-email": "maintainers",
    "project-urls": "urls",
    "python-requires": "requires-python",
    "url": "urls",
}


def read_pins(name):
    """The exact versions in a constraints file, by canonical name; anything but exact pins is an error."""
    pins = {}
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        line = line.partition("#")[0].strip()
        if not line:
            continue
        requirement = Requirement(line)
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", line
        key = canonicalize_name(requirement.name)
        assert key not in pins, f"{name} pins {key} twice"
        pins[key] = Version(specifier.version)
    return pins


def literal_version():
    """`__version__` as it stands in the source, read without importing the package."""
    tree = ast.parse((ROOT / "hf_selfdestruct" / "__init__.py").read_text(encoding="utf-8"))
    values = []
    for node in tree.body:
        if isinstance(node, ast.Assign):
            targets, value = node.targets, node.value
        elif isinstance(node, ast.AnnAssign):
            targets, value = [node.target], node.value
        else:
            continue
        if any(isinstance(target, ast.Name) and target.id == "__version__" for target in targets):
            values.append(ast.literal_eval(value))
    (version,) = values
    return version


def test_setup_cfg_repeats_nothing_of_pyproject():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    keys = {key.replace("_", "-") for section in ("metadata", "options") for key in parser[section]}
    keys |= {SETUP_CFG_TO_PROJECT[key] for key in keys & SETUP_CFG_TO_PROJECT.keys()}
    for section, name in (
        ("options.extras_require", "optional-dependencies"),
        ("options.entry_points", "scripts"),
    ):
        if parser.has_section(section):
            keys.add(name)
    assert not keys & PROJECT.keys()
    assert set(PROJECT["dynamic"]) <= keys, "a dynamic field that setup.cfg does not provide"


def test_lower_bounds_are_the_lowest_tested_versions():
    lower = {}
    for name, requirement in RUNTIME.items():
        (bound,) = [s for s in requirement.specifier if s.operator == ">="]
        lower[name] = Version(bound.version)
    assert lower == read_pins("constraints-lowest.txt")


@pytest.mark.parametrize("name", sorted(RUNTIME | EXTRAS))
def test_tested_version_satisfies_the_declared_range(name):
    pin = read_pins("constraints.txt")[name]
    assert (RUNTIME | EXTRAS)[name].specifier.contains(pin, prereleases=True)


def test_makefile_installs_the_torch_of_both_constraints_files():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (line,) = [line for line in makefile.splitlines() if line.startswith("TORCH :=")]
    pin = str(Requirement(line.partition(":=")[2].strip()).specifier)
    for constraints in ("constraints.txt", "constraints-lowest.txt"):
        assert pin == f"=={read_pins(constraints)['torch']}"


def test_version_is_a_literal_and_the_installed_one():
    version = literal_version()
    assert isinstance(version, str)
    installed = importlib.metadata.version("hf-selfdestruct")
    assert installed == version, "installed metadata is out of date: pip install -e ."


def test_documents_name_the_current_version():
    release = Version(literal_version()).base_version
    assert f"\nversion: {release}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\n## [{release}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_console_script_points_at_a_function():
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="hf-selfdestruct")
    assert script.value == PROJECT["scripts"]["hf-selfdestruct"]
    assert callable(script.load())


@pytest.mark.parametrize(
    "path",
    [
        ".ci/run",
        ".gitignore",
        "CHANGELOG.md",
        "CITATION.cff",
        "CONTRIBUTING.md",
        "LICENSE",
        "Makefile",
        "README.md",
        "SECURITY.md",
        "constraints-lowest.txt",
        "constraints.txt",
        "hf_selfdestruct/py.typed",
        "pyproject.toml",
        "setup.cfg",
    ],
)
def test_required_file_exists(path):
    assert (ROOT / path).is_file()


def test_ci_script_is_executable():
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
