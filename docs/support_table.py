"""What works, read from the tests: which architectures, tasks, trainers and launchers they try."""

import ast
import re
from functools import cache

from tables import ROOT, assigned, parsed, summary, table

TESTS = ROOT / "tests"
NAMES = {
    "bert": "BERT (all-MiniLM-L6-v2 is one)",
    "distilbert": "DistilBERT",
    "roberta": "RoBERTa",
    "modernbert": "ModernBERT",
    "gpt2": "GPT-2",
    "llama": "Llama",
    "vit": "ViT",
    "resnet": "ResNet",
}
# A column of the table of models: the tests whose parameters name the architectures that it holds for.
COLUMNS = {
    "hardens": (
        "trainer/test_trainer_moves.py::test_every_architecture_trains",
        "jobs/test_images.py::test_image_classifiers_train",
    ),
    "second order is exact": (
        "meta_gradient/test_adjoint.py::test_equals_unrolled_with_every_architecture",
        "meta_gradient/test_meta_gradient.py::test_unrolled_equals_finite_differences_of_the_objective",
    ),
    "LoRA adversary": (
        "hardening/test_simulation.py::test_lora_by_name_works_for_every_architecture",
        "models/test_skeletons.py::test_who_trains_adapters_trains_nothing_published",
    ),
    "adversary of the head or of last layers": ("models/test_skeletons.py::test_what_each_adversary_trains",),
    "inner steps in place": (
        "meta_gradient/test_in_place_episode.py::test_equals_the_flat_episode_with_every_architecture",
        "meta_gradient/test_in_place_episode.py::test_activation_checkpointing_changes_no_bit",
    ),
    "attacked": (
        "attacks/test_frozen_features.py::test_causal_models_are_fine_tuned",
        "attacks/test_frozen_features.py::test_image_models_are_attacked_by_every_kind",
        "script_parts.py",
    ),
}
NEEDED = ("by", "processes")  # of a launch
TRAINERS = {
    "a `Trainer` script, two class names changed": "trainer/test_swap_the_trainer.py",
    "a `compute_loss` of your own, before or behind ours": "trainer/test_trainer_subclasses.py",
    "`trl.SFTTrainer`, by the mixin": "trainer/test_trl.py",
    "no Trainer: a loop of your own": "hardening/test_objective.py",
    "a U-Net of diffusers, by the Trainer or in a loop of your own": "models/test_denoiser.py",
    "a `SentenceTransformer`'s encoder": "trainer/test_sentence_encoder.py",
    "an optimizer of your own": "trainer/test_given_optimizer.py",
    "a LoRA adapter to train alone": "trainer/test_adapter.py",
    "PEFT adapters, `model_init`, activation checkpointing": "trainer/test_given.py",
    "data sets with transforms": "trainer/test_transforms.py",
    "images from the command line": "cli/test_cli_images.py",
    "language models from the command line": "jobs/test_texts_job.py",
}


def models() -> str:
    """Rows: architectures. Columns: what the tests do with them."""
    rows = [
        (label, *("tested" if name in _named(where) else "–" for where in COLUMNS.values()))
        for name, label in NAMES.items()
    ]
    return table(("architecture", *COLUMNS), rows)


def tasks() -> str:
    """The scripts that are hardened, attacked, saved and loaded again, each with its task and model class."""
    tree = parsed("tests/script_parts.py")
    scripts = assigned(tree)["SCRIPTS"]
    if not isinstance(scripts, ast.Tuple):
        raise ValueError("SCRIPTS of tests/script_parts.py is no tuple.")
    functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
    rows = []
    for name in (ast.unparse(element) for element in scripts.elts):
        body = ast.unparse(functions[name])
        kind = re.search(r"'model': (\w+)\.from_pretrained|\"model\": (\w+)\.from_pretrained", body)
        classes = (kind[1] or kind[2]) if kind else "as the first"
        rows.append((summary(ast.get_docstring(functions[name])), f"`{classes}`" if kind else classes))
    return table(("the script's desired task", "model"), rows)


def trainers() -> str:
    """Ways to harden, each with the tests that do it."""
    rows = []
    for label, path in TRAINERS.items():
        rows.append((label, summary(ast.get_docstring(parsed(f"tests/{path}"))), f"`tests/{path}`"))
    return table(("what you have", "what the tests show", "where"), rows)


def launchers() -> str:
    """How the tests start several processes: launcher, number of processes, what is compared."""
    rows = []
    for path in sorted(TESTS.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        calls = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) == "launch"]
        ways = dict.fromkeys(way for call in calls for way in _ways(call, tree))
        if ways:
            where = path.relative_to(ROOT).as_posix()
            rows.append(("; ".join(ways), summary(ast.get_docstring(tree)), f"`{where}`"))
    return table(("launched by", "what the tests show", "where"), rows)


def refused() -> str:
    """Options of `transformers` that are refused, with the reason and the cure, from the code that refuses them."""
    tree = parsed("hf_selfdestruct/trainer/training_args.py")
    (found,) = [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "refused"
    ]
    known: dict[str, tuple[str, str]] = ast.literal_eval(found)
    return table(("option", "why", "instead"), [(f"`{name}`", why, cure) for name, (why, cure) in known.items()])


def _ways(call: ast.Call, tree: ast.Module) -> list[str]:
    """How a call starts processes; of parametrised ones those of `LAUNCHES`. One process alone is none."""
    given, known = {k.arg: k.value for k in call.keywords}, assigned(tree)
    by, many = (known.get(ast.unparse(node), node) for node in (given.get(n, ast.Constant(None)) for n in NEEDED))
    if isinstance(by, ast.Name):
        launches = getattr(known.get("LAUNCHES"), "elts", [])
        return [_way(element.elts[1], element.elts[0]) for element in launches]
    return [] if getattr(many, "value", None) == 1 else [_way(by, many)]


def _way(by: ast.expr, many: ast.expr) -> str:
    words = {"accelerate": "`accelerate launch`", "fork": "the launcher of `torchrun`"}
    launcher = words.get(getattr(by, "value", None) or "", "`torchrun`")
    return f"{launcher}, {getattr(many, 'value', 'several')} processes"


# Parameters of tests


def _named(where: tuple[str, ...]) -> set[str]:
    found: set[str] = set()
    for place in where:
        if "::" not in place:  # a helper: what its functions load by name
            tree = parsed(f"tests/{place}")
            found |= {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and n.value in NAMES}
        elif place not in _parametrised():
            raise ValueError(f"no test {place}: name the test that stands for this column.")
        else:
            found |= _parametrised()[place]
    return found


@cache
def _parametrised() -> dict[str, set[str]]:
    """Architectures that each test's parameters name."""
    every = set(_values(assigned(_tests()["toy_models"])["ARCHITECTURES"], "toy_models"))
    found: dict[str, set[str]] = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in tree.body:
            if not isinstance(node, ast.FunctionDef) or not node.name.startswith("test_"):
                continue
            decorators = [d for d in node.decorator_list if isinstance(d, ast.Call)]
            given = {v for d in decorators if "parametrize" in ast.unparse(d.func) for v in _values(d.args[1], tree)}
            asked = {argument.arg for argument in node.args.args}
            named = [d for d in decorators if d.args and "architecture" in ast.unparse(d.args[0])]
            own = every if "architecture" in asked and not named else set()
            found[f"{path.relative_to(TESTS).as_posix()}::{node.name}"] = (given | own) & NAMES.keys()
    return found


@cache
def _tests() -> dict[str, ast.Module]:
    return {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in TESTS.glob("*.py")}


def _values(node: ast.expr, where: ast.Module | str) -> list[str]:
    """The texts in a list of parameters, looked up by name in the module and in the helpers it imports."""
    tree = _tests()[where] if isinstance(where, str) else where
    match node:
        case ast.Constant(value=str() as value):
            return [value]
        case ast.Tuple() | ast.List() | ast.Set():
            return [value for element in node.elts for value in _values(element, where)]
        case ast.Starred():
            return _values(node.value, where)
        case ast.Dict():
            return [value for key in node.keys if key for value in _values(key, where)]
        case ast.GeneratorExp() | ast.ListComp() if not node.generators[0].ifs:
            return _values(node.generators[0].iter, where)
        case ast.Name():
            if node.id in (own := assigned(tree)):
                return _values(own[node.id], where)
            for one in tree.body:
                if isinstance(one, ast.ImportFrom) and node.id in {alias.name for alias in one.names}:
                    return _values(node, one.module) if one.module in _tests() else []
    return []
