"""What can be typed on the command line."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Callable, Mapping

from .. import __version__
from ..jobs.sections import DataConfig, TaskConfig, words_in, words_of
from ..jobs.starter import STARTS
from ..publish.card_details import GATES, CardDetails, Gate, ReleaseConsiderations

WHAT = (
    "Train open weights that stay good at their desired task and cost more to fine-tune to a blocked one, attack the "
    "result, and publish it with the evidence."
)
OVERRIDES = (
    "Keys of the file can be given other values: --model, --suite, --workers, --data.KEY, --adversary.KEY, "
    "--method_options.KEY, and of `training` --KEY, which is any field of SelfDestructTrainingArguments and so of "
    "transformers' TrainingArguments, such as --output_dir DIR, --max_steps 300 or --seed 1. An error lists the names "
    "that a key can have. A number of the adversary can be a range to draw from, {low: 1e-4, high: 1e-3}, or a list to "
    "draw from; steps and prelude can grow, {first: 4, last: 16, every: 100}. Interrupted, the same command goes on."
)

SECTIONS: dict[str, Callable[[], dict[str, str]]] = {
    "data": lambda: words_of(DataConfig),
    "blocked_tasks (a list), and control_tasks": lambda: words_of(TaskConfig),
    "training, beside those of transformers": lambda: {
        **words_in("hardening/config.py", "HardeningConfig"),
        "dry_run": words_in("trainer/training_args.py", "SelfDestructTrainingArguments")["dry_run"],
    },
    "training: adversary": lambda: words_in("hardening/adversary_settings.py", "AdversarySettings"),
    "training: method_options": lambda: words_in("hardening/method_options.py", "MethodOptions"),
    "card": lambda: words_of(CardDetails),
    "card: release": lambda: words_of(ReleaseConsiderations),
    "card: gate": lambda: words_of(Gate),
}
KEY_WIDTH = 23


def parser_of(runs: Mapping[str, Callable[[argparse.Namespace], int]]) -> argparse.ArgumentParser:
    """The parser of all commands.

    Args:
        runs: What each command does, by its name; it stands in ``run`` of what is parsed.
    """
    parser = argparse.ArgumentParser("hf-selfdestruct", description=WHAT, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"hf_selfdestruct {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, more: str = "") -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text, epilog=more, allow_abbrev=False)
        added.set_defaults(run=runs[name])
        return added

    demo = command("demo", "harden, attack and write a card, on embedded data, in minutes on a CPU")
    demo.add_argument("--output-dir", default="demo-output", help="where the hardened folder goes")
    demo.add_argument("--model", help="Hub id or folder; by default the packaged all-MiniLM-L6-v2")

    init = command("init", "write a commented configuration to start from; no file is overwritten")
    init.add_argument("file", metavar="FILE", nargs="?", default="selfdestruct.yaml", help="by default %(default)s")
    init.add_argument(
        "--kind", default="text", help=f"what the examples are, by default text; one of: {', '.join(STARTS)}"
    )

    harden = command("harden", "harden and attack as a YAML file says", _keys())
    harden.formatter_class = argparse.RawDescriptionHelpFormatter
    harden.add_argument("config", metavar="CONFIG.yaml")
    harden.usage = "%(prog)s [-h] CONFIG.yaml [--KEY VALUE ...]"

    attack = command("attack", "attack a model made by anyone")
    attack.add_argument("model", metavar="MODEL", help="folder or Hub id")
    attack.add_argument("--config", required=True, metavar="CONFIG.yaml", help="data and blocked tasks")
    attack.add_argument("--undefended", help="folder or Hub id of the sibling without blocking")
    attack.add_argument("--base", help="model it started from; by default `model` of the configuration")
    attack.add_argument(
        "--suite",
        help="smoke, glance, quick, default, mlac, sophon, durability, adaptive or full; by default as configured",
    )
    attack.add_argument("--output", default="report.json", help="where the report goes")
    attack.add_argument("--storage", help="Optuna storage URL of the runs; by default a file beside the report")
    attack.add_argument("--workers", help="processes on this machine that share the work; by default 1")

    report = command("report", "show a report as a table, and draw its plots")
    report.add_argument("reports", metavar="REPORT.json", nargs="+", help="or its folder; several go side by side")
    report.add_argument("--plots", metavar="DIR", help="draw the plots of a single report into this folder")

    card = command("card", "render DIR/README.md again from the report and card.json")
    card.add_argument("folder", metavar="DIR")

    _add_publishing(command)
    return parser


def _keys() -> str:
    """How values are overridden, and every key of the file's sections with the words of its documentation."""
    width = max(60, shutil.get_terminal_size().columns - 2)
    lines = textwrap.wrap(OVERRIDES, width)
    for section, words_of_keys in SECTIONS.items():
        lines += ["", f"keys of {section}:"]
        for name, words in words_of_keys().items():
            start, rest = f"  {name:<{KEY_WIDTH}}", " " * (KEY_WIDTH + 2)
            lines += textwrap.wrap(words, width, initial_indent=start, subsequent_indent=rest) or [start.rstrip()]
    return "\n".join(lines)


def _add_publishing(command: Callable[..., argparse.ArgumentParser]) -> None:
    push = command("push", "publish a hardened folder on the Hub")
    push.add_argument("folder", metavar="DIR")
    push.add_argument("repo_id", metavar="REPO_ID")
    push.add_argument("--private", action="store_true", help="make a new repository private; a public one is refused")
    push.add_argument("--replace", action="store_true", help="delete all else in the repository, such as another model")
    push.add_argument("--gated", choices=GATES, help="who wants the files must ask; written to the card too")
    push.add_argument("--sign", metavar="KEY", help="private elliptic-curve key (PEM) to sign with")
    push.add_argument("--revision", help="branch to commit to; by default main")
    push.add_argument("--create-pr", action="store_true", help="open a pull request instead of a commit to main")
    push.add_argument("--dry-run", action="store_true", help="list what would go, and send nothing")

    verify = command("verify", "check a hardened folder, or one on the Hub, against its manifest")
    verify.add_argument(
        "source", metavar="DIR_OR_REPO_ID", help="where both exist, ./owner/name is the folder, hf://owner/name is not"
    )
    verify.add_argument("--public-key", metavar="KEY", help="check the signature, with this key (PEM)")
    verify.add_argument(
        "--files-only",
        action="store_true",
        help="do not hold the report against its suite's plan, which only shipped suites of this version have",
    )
    verify.add_argument("--revision", help="of the repository on the Hub; by default main")
    verify.add_argument(
        "--rerun",
        metavar="N",
        nargs="?",
        const=3,
        type=_count,
        help="repeat N recorded runs of each blocked task, by default 3, drawn at random; needs --config",
    )
    verify.add_argument("--rerun-seed", metavar="SEED", type=int, help="of the draw; by default another each time")
    verify.add_argument("--config", metavar="CONFIG.yaml", help="where the data is that was attacked with")

    made = command("fingerprint", "is the served model the certified one?")
    steps = made.add_subparsers(dest="step", required=True, metavar="make|check")
    make = steps.add_parser("make", help="record a classifier's answers to secret questions", allow_abbrev=False)
    make.add_argument("folder", metavar="DIR")
    make.add_argument("file", metavar="FINGERPRINT.json", help="keep it private")
    make.add_argument("--probes", type=int, default=64, help="texts, or images, to ask; by default 64")
    check = steps.add_parser("check", help="ask a folder or an endpoint the same", allow_abbrev=False)
    check.add_argument("file", metavar="FINGERPRINT.json")
    check.add_argument("source", metavar="DIR_OR_URL")
    check.add_argument("--send-token", action="store_true", help="send your Hub token to the endpoint, over https only")
    check.add_argument(
        "--timeout", type=float, metavar="SECONDS", help="for all answers of an endpoint; by default 120"
    )


def _count(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {word!r}")
    return int(word)
