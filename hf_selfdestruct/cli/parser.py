"""Commands and options of the command line."""

from __future__ import annotations

import argparse
import shutil
import textwrap
from collections.abc import Callable, Mapping, Sequence

from .. import __version__
from ..jobs.sections import DataConfig, TaskConfig, words_in, words_of
from ..jobs.starter import STARTS
from ..publish.card_details import GATES, CardDetails, Gate, ReleaseConsiderations

WHAT = (
    "Train models that stay good at their desired task and are expensive to fine-tune for a task you block, attack "
    "the result, and publish it with the evidence."
)
OVERRIDES = (
    "Options override keys of the file: --model, --suite, --workers, --data.KEY, --adversary.KEY, "
    "--method_options.KEY, and --KEY for any field of SelfDestructTrainingArguments (section `training`) and so of "
    "transformers' TrainingArguments, such as --output_dir DIR, --max_steps 300 or --seed 1. An error lists the names "
    "that a key can have. A number of the adversary can be a range to draw from, {low: 1e-4, high: 1e-3}, or a list to "
    "draw from; steps and prelude can grow, {first: 4, last: 16, every: 100}. If a run is interrupted, run the same "
    "command again to resume."
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


SUITES = (
    "smoke, small, glance, images, diffusion, quick, default, mlac, sophon, durability, adaptive or full; for language "
    "models glance, quick, default, durability or adaptive; by default as configured"
)


def parser_of(runs: Mapping[str, Callable[[argparse.Namespace], int]]) -> argparse.ArgumentParser:
    """Build the parser of all commands.

    Args:
        runs: The function of each command, by name; the parser stores the chosen one as ``run``.
    """
    parser = argparse.ArgumentParser("hf-selfdestruct", description=WHAT, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"hf_selfdestruct {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, text: str, more: str = "") -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text, epilog=more, allow_abbrev=False)
        added.set_defaults(run=runs[name])
        return added

    demo = command("demo", "harden and attack a small model on embedded data, in minutes on a CPU")
    demo.add_argument("--output-dir", default="demo-output", help="folder to write to; by default %(default)s")
    demo.add_argument("--kind", default="text", help="kind of examples: text, vision, language; by default %(default)s")
    demo.add_argument("--suite", help="suite of attacks; by default a small one")
    demo.add_argument("--model", help="Hub id or folder; by default two layers of the packaged all-MiniLM-L6-v2")
    demo.add_argument("--workers", type=int, help="processes that share the attacks; by default 2, on 2 or more cores")

    init = command("init", "write a commented starter configuration; an existing file is never overwritten")
    init.add_argument("file", metavar="FILE", nargs="?", default="selfdestruct.yaml", help="by default %(default)s")
    init.add_argument("--kind", default="text", help=f"kind of examples: {', '.join(STARTS)}; by default %(default)s")

    harden = command("harden", "harden and attack a model, as configured in a YAML file", _keys())
    harden.formatter_class = argparse.RawDescriptionHelpFormatter
    harden.add_argument("config", metavar="CONFIG.yaml")
    harden.usage = "%(prog)s [-h] CONFIG.yaml [--KEY VALUE ...]"

    attack = command("attack", "attack any model, hardened by this package or not")
    attack.add_argument("model", metavar="MODEL", help="folder or Hub id")
    attack.add_argument("--config", required=True, metavar="CONFIG.yaml", help="YAML file: data and blocked tasks")
    attack.add_argument("--undefended", help="folder or Hub id of the undefended model, trained without blocking")
    attack.add_argument("--filtered", help="folder or Hub id of a model that never saw the blocked task")
    attack.add_argument("--base", help="model that MODEL was trained from; by default `model` of the configuration")
    attack.add_argument("--suite", help=SUITES)
    attack.add_argument("--output", default="report.json", help="file to save the report to; by default %(default)s")
    attack.add_argument("--storage", help="Optuna storage URL of the runs; by default a file beside the report")
    attack.add_argument("--workers", help="number of processes on this machine; by default as configured, else 1")

    report = command("report", "print a report as a table, draw its plots, and write it as one HTML page")
    report.add_argument("reports", metavar="REPORT.json", nargs="+", help="report, or its folder; compares several")
    report.add_argument("--plots", metavar="DIR", help="draw the plots of a single report into this folder")
    report.add_argument("--html", metavar="FILE", help="write a single report as one self-contained HTML page")

    card = command("card", "render DIR/README.md again, from the report and card.json")
    card.add_argument("folder", metavar="DIR")

    _add_publishing(command)
    return parser


def spelled(words: Sequence[str]) -> list[str]:
    """Arguments with their options as the parser spells them: ``--output_dir`` is ``--output-dir``, as in transformers.

    The overrides of ``harden`` name keys, which have underscores, and stay as they are.

    Args:
        words: The arguments.
    """
    if "harden" in words[:1]:
        return [*words]
    parts = [word.partition("=") if word.startswith("--") else (word, "", "") for word in words]
    return [
        (name.replace("_", "-") if name.startswith("--") else name) + equals + value for name, equals, value in parts
    ]


def _keys() -> str:
    """Describe the overrides and list every key of each section with its documentation."""
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
    push.add_argument("--private", action="store_true", help="make a new repository private; refuse a public one")
    push.add_argument("--replace", action="store_true", help="delete all other files, such as those of another model")
    push.add_argument("--gated", choices=GATES, help="users must request access, granted automatically or manually")
    push.add_argument("--sign", metavar="KEY", help="private elliptic-curve key (PEM) to sign with")
    push.add_argument("--revision", help="branch to commit to; by default main")
    push.add_argument("--create-pr", action="store_true", help="open a pull request instead of a commit to main")
    push.add_argument("--dry-run", action="store_true", help="list the files to upload, and send nothing")

    verify = command("verify", "check a hardened folder, or one on the Hub, against its manifest")
    verify.add_argument(
        "source",
        metavar="DIR_OR_REPO_ID",
        help="if both exist, write ./owner/name for the folder and hf://owner/name for the repository",
    )
    verify.add_argument("--public-key", metavar="KEY", help="public key (PEM) to check the signature with")
    verify.add_argument(
        "--files-only",
        action="store_true",
        help="do not check the report against its suite's plan; only suites shipped with this version have a plan",
    )
    verify.add_argument("--revision", help="branch, tag or commit of the repository; by default main")
    verify.add_argument(
        "--rerun",
        metavar="N",
        nargs="?",
        const=3,
        type=_count,
        help="repeat N randomly drawn runs of each blocked task, by default 3; needs --config",
    )
    verify.add_argument("--rerun-seed", metavar="SEED", type=int, help="seed of the draw; by default a random one")
    verify.add_argument("--config", metavar="CONFIG.yaml", help="file that names the data of the attacks")

    view = command("view", "open one or two reports in a browser, and whether their folders verify")
    view.add_argument("source", metavar="DIR_OR_REPO_ID", help="hardened folder, or one on the Hub; see verify --help")
    view.add_argument("other", metavar="DIR_OR_REPO_ID", nargs="?", help="another one, shown beside the first")
    view.add_argument("--port", type=int, help="port on 127.0.0.1; by default the first free one from 7860")
    _add_fingerprint(command)


def _add_fingerprint(command: Callable[..., argparse.ArgumentParser]) -> None:
    made = command("fingerprint", "check whether an endpoint serves the certified model")
    steps = made.add_subparsers(dest="step", required=True, metavar="make|check")
    make = steps.add_parser("make", help="record a classifier's answers to secret probes", allow_abbrev=False)
    make.add_argument("folder", metavar="DIR")
    make.add_argument("file", metavar="FINGERPRINT.json", help="file to write; keep it private")
    make.add_argument("--probes", type=int, default=64, help="number of texts, or images; by default %(default)s")
    check = steps.add_parser("check", help="send the probes to a folder or an endpoint", allow_abbrev=False)
    check.add_argument("file", metavar="FINGERPRINT.json")
    check.add_argument("source", metavar="DIR_OR_URL")
    check.add_argument("--send-token", action="store_true", help="send your Hub token to the endpoint, over https only")
    check.add_argument("--timeout", type=float, metavar="SECONDS", help="total time of an endpoint; by default 120")


def _count(word: str) -> int:
    if not word.isdecimal() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {word!r}")
    return int(word)
