"""The command line: arguments in, exit codes out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from .details import GATES

WRONG_INPUT, FAILED = 2, 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Words after the program's name; by default those of the process.

    Returns:
        0 on success, 2 on wrong input (one line on standard error), 1 when the work itself failed.
    """
    parser = _parser()
    arguments, rest = parser.parse_known_args(argv)
    if rest and arguments.command != "harden":
        parser.error(f"unknown option {rest[0]}; `hf-selfdestruct {arguments.command} --help` lists the options")
    arguments.overrides = rest
    try:
        return arguments.run(arguments)
    except (ValueError, TypeError, OSError) as error:
        code = FAILED if isinstance(error, ConnectionError) else WRONG_INPUT
        return _fail(error, code)
    except FloatingPointError as error:
        return _fail(error, FAILED)


def _fail(error: Exception, code: int) -> int:
    line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    sys.stderr.write(f"hf-selfdestruct: error: {line}\n")
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("hf-selfdestruct", description=__doc__, allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        added.set_defaults(run=run)
        return added

    demo = command("demo", _demo, "harden, attack and write a card, on embedded data, in minutes on a CPU")
    demo.add_argument("--output-dir", default="demo-output", help="where the hardened folder goes")
    demo.add_argument("--model", help="Hub id or folder; by default the packaged all-MiniLM-L6-v2")

    harden = command("harden", _harden, "harden and attack as a YAML file says; --NAME VALUE overrides `training`")
    harden.add_argument("config", metavar="CONFIG.yaml")

    attack = command("attack", _attack, "attack a model made by anyone")
    attack.add_argument("model", metavar="MODEL", help="folder or Hub id")
    attack.add_argument("--config", required=True, metavar="CONFIG.yaml", help="data and blocked tasks")
    attack.add_argument("--undefended", help="folder or Hub id of the sibling without blocking")
    attack.add_argument("--base", help="model it started from; by default `model` of the configuration")
    attack.add_argument(
        "--suite",
        help="smoke, quick, default, full, ...; by default `suite` of the configuration",
    )
    attack.add_argument("--output", default="report.json", help="where the report goes")
    attack.add_argument("--storage", help="Optuna storage URL of the runs; by default a file beside the report")
    attack.add_argument("--workers", help="processes on this machine that share the work; by default 1")

    report = command("report", _report, "show a report as a table, and draw its plots")
    report.add_argument("reports", metavar="REPORT.json", nargs="+", help="several are put side by side")
    report.add_argument("--plots", metavar="DIR", help="draw the plots of a single report into this folder")

    card = command("card", _card, "render DIR/README.md again from the report and card.json")
    card.add_argument("folder", metavar="DIR")

    _add_publishing(command)
    return parser


def _add_publishing(command: Callable[..., argparse.ArgumentParser]) -> None:
    push = command("push", _push, "publish a hardened folder on the Hub")
    push.add_argument("folder", metavar="DIR")
    push.add_argument("repo_id", metavar="REPO_ID")
    push.add_argument("--private", action="store_true", help="make a new repository private")
    push.add_argument("--gated", choices=GATES, help="who wants the files must ask; written to the card too")
    push.add_argument("--sign", metavar="KEY", help="private elliptic-curve key (PEM) to sign with")
    push.add_argument("--revision", help="branch to commit to; by default main")
    push.add_argument("--create-pr", action="store_true", help="open a pull request instead of a commit to main")
    push.add_argument("--dry-run", action="store_true", help="list what would go, and send nothing")

    verify = command("verify", _verify, "check a hardened folder, or one on the Hub, against its manifest")
    verify.add_argument("source", metavar="DIR_OR_REPO_ID")
    verify.add_argument("--public-key", metavar="KEY", help="check the signature, with this key (PEM)")
    verify.add_argument("--revision", help="of the repository on the Hub; by default main")
    verify.add_argument("--rerun", action="store_true", help="repeat the worst recorded attack; needs --config")
    verify.add_argument("--config", metavar="CONFIG.yaml", help="where the data is that was attacked with")

    made = command("fingerprint", _fingerprint, "is the served model the certified one?")
    steps = made.add_subparsers(dest="step", required=True, metavar="make|check")
    make = steps.add_parser("make", help="record what a classifier answers to secret texts", allow_abbrev=False)
    make.add_argument("folder", metavar="DIR")
    make.add_argument("file", metavar="FINGERPRINT.json", help="keep it private")
    make.add_argument("--probes", type=int, default=64, help="texts to ask; by default 64")
    check = steps.add_parser("check", help="ask a folder or an endpoint the same texts", allow_abbrev=False)
    check.add_argument("file", metavar="FINGERPRINT.json")
    check.add_argument("source", metavar="DIR_OR_URL")


# Each command imports what it needs, so that `--help` and wrong options answer at once.


def _quiet() -> None:
    """Only progress of training and attacks: not one bar per file, nor a warning that a new head is new."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    # What cannot be read becomes our one line on standard error; datasets would log it beside that.
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def _demo(arguments: argparse.Namespace) -> int:
    _quiet()
    from .demo.recipe import demo

    return _hardened(demo(arguments.output_dir, model=arguments.model).table(), arguments.output_dir)


def _harden(arguments: argparse.Namespace) -> int:
    _quiet()
    from .config import load_config, training_arguments
    from .recipe import harden

    config = load_config(arguments.config, arguments.overrides)
    return _hardened(harden(config).table(), training_arguments(config).output_dir)


def _hardened(table: str, folder: str | None) -> int:
    """What the first of all processes shows, and an end in good order."""
    from accelerate import PartialState

    processes = PartialState()
    if processes.is_main_process:
        _show(f"{table}hardened folder with report, card and plots: {folder}\n")
    processes.wait_for_everyone()
    processes.destroy_process_group()
    return 0


def _attack(arguments: argparse.Namespace) -> int:
    _quiet()
    from .config import load_config
    from .recipe import attack

    given = {"--suite": arguments.suite, "--workers": arguments.workers}
    config = load_config(arguments.config, [word for pair in given.items() if pair[1] for word in pair])
    output = Path(arguments.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    report = attack(
        config,
        arguments.model,
        undefended=arguments.undefended,
        base=arguments.base,
        storage=arguments.storage or f"sqlite:///{output.with_suffix('.attacks.db')}",
        workers=config.workers,
    )
    report.save(output)
    _show(report.table())
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from .plots import save_plots
    from .report import AttackReport
    from .tables import comparison_table

    reports = [AttackReport.load(path) for path in arguments.reports]
    if len(reports) > 1:
        if arguments.plots:
            raise ValueError("--plots draws one report at a time; give a single REPORT.json.")
        _show(comparison_table(reports, arguments.reports))
        return 0
    _show(reports[0].table())
    if arguments.plots:
        for path in save_plots(reports[0], arguments.plots):
            _show(f"{path}\n")
    return 0


def _card(arguments: argparse.Namespace) -> int:
    from .manifest import renew_card

    _show(f"{renew_card(arguments.folder)}\n")
    return 0


def _push(arguments: argparse.Namespace) -> int:
    from .hub import planned, push

    if arguments.dry_run:
        files = planned(arguments.folder, gated=arguments.gated, key=arguments.sign)
        for name, size in files.items():
            _show(f"{size:>14,}  {name}\n")
        total = sum(files.values())
        _show(f"{total:>14,}  bytes in {len(files)} files would go to {arguments.repo_id}; nothing was sent\n")
        return 0
    commit = push(
        arguments.folder,
        arguments.repo_id,
        private=arguments.private or None,
        gated=arguments.gated,
        revision=arguments.revision,
        create_pr=arguments.create_pr,
        key=arguments.sign,
    )
    _show(f"{commit.pr_url or commit.commit_url}\n")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from .manifest import SIGNATURE, problems
    from .signing import signature_problems

    if arguments.rerun and not arguments.config:
        raise ValueError("--rerun needs --config CONFIG.yaml: the report holds only fingerprints of the data.")
    folder = _folder(arguments.source, arguments.revision)
    found = problems(folder)
    if not found and arguments.public_key:
        found = signature_problems(folder, arguments.public_key)
    if found:
        _show("".join(f"{problem}\n" for problem in found))
        return FAILED
    if arguments.public_key:
        _show("every file agrees, and the signature is of this key\n")
    else:
        signed = f"; {SIGNATURE} was not checked: give --public-key" if (folder / SIGNATURE).is_file() else ""
        _show(f"every file agrees; unsigned hashes detect accidents, not forgery{signed}\n")
    return _rerun(folder, arguments.config) if arguments.rerun else 0


def _folder(source: str, revision: str | None) -> Path:
    if Path(source).is_dir():
        return Path(source)
    if source.count("/") != 1 or source.startswith((".", "/", "~")):
        raise ValueError(f"no folder {source}; a model on the Hub is named owner/name.")
    from .hub import fetched

    return fetched(source, revision=revision)


def _rerun(folder: Path, config: str) -> int:
    _quiet()
    from .config import load_config
    from .rerun import rerun

    found = rerun(folder, load_config(config))
    for one in found:
        _show(f"{one.line()}\n")
    return 0 if all(one.stands for one in found) else FAILED


def _fingerprint(arguments: argparse.Namespace) -> int:
    _quiet()
    from .fingerprint import Fingerprint, check, folder_answers, make

    if arguments.step == "make":
        made = make(arguments.folder, probes=arguments.probes)
        made.save(arguments.file)
        _show(f"{arguments.file}: keep it private; {made.rate()}\n")
        return 0
    made, source = Fingerprint.load(arguments.file), arguments.source
    if source.startswith(("http://", "https://")):
        from .hub import endpoint_answers

        answers = endpoint_answers(source, made.labels)
    else:
        answers = folder_answers(_folder(source, None), made.labels)
    finding = check(made, answers)
    verdict = "the certified weights answer" if finding.same else "ANOTHER MODEL ANSWERS"
    _show(
        f"{verdict}: probabilities differ by {finding.difference:.2e} (threshold {finding.threshold:.2e}), and "
        f"{finding.differing} of {finding.probes} answers; {made.rate()}\n"
    )
    return 0 if finding.same else FAILED


def _show(text: str) -> None:
    Console(soft_wrap=True, highlight=False, markup=False).print(text, end="")


if __name__ == "__main__":
    sys.exit(main())
