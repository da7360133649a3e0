"""The command line: arguments in, exit codes out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from ..files import MOST_TOLD, printable, reason
from .parser import parser_of, spelled

if TYPE_CHECKING:
    from ..jobs.fingerprint import Answers
    from ..report.report import AttackReport

WRONG_INPUT, FAILED, INTERRUPTED = 2, 1, 130


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: Arguments after the program's name; by default ``sys.argv[1:]``.

    Returns:
        0 on success, 2 on wrong input (one line on standard error), 1 when the work itself fails, 130 when the user
        interrupts it.
    """
    parser = parser_of(COMMANDS)
    arguments, rest = parser.parse_known_args(spelled(sys.argv[1:] if argv is None else argv))
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
    except KeyboardInterrupt:
        sys.stderr.write("\nhf-selfdestruct: interrupted. Run the same command again to resume.\n")
        return INTERRUPTED


def _fail(error: Exception, code: int) -> int:
    message = reason(error)
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        message = f"cannot use {printable(str(error.filename))[:MOST_TOLD]} ({error.strerror}); pass another path."
    sys.stderr.write(f"hf-selfdestruct: error: {message}\n")
    return code


# Each command imports what it needs: `--help` and wrong options return without importing torch.


def _quiet() -> None:
    """Show only the progress of training and attacks: no bar per file, no warning about a newly initialised head."""
    import datasets
    import transformers

    datasets.disable_progress_bars()
    # An unreadable file raises an error that we print in one line; datasets would log the error as well.
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def _demo(arguments: argparse.Namespace) -> int:
    _quiet()
    from ..demo.job import demo
    from ..demo.reading import last_words

    report = demo(arguments.output_dir, **{n: getattr(arguments, n) for n in ("kind", "suite", "model", "workers")})
    called = sys.argv[0] if Path(sys.argv[0]).name == "hf-selfdestruct" else "hf-selfdestruct"
    return _hardened(report, arguments.output_dir, last_words(report, arguments.output_dir, command=called))


def _init(arguments: argparse.Namespace) -> int:
    from ..jobs.starter import write_starter

    write_starter(arguments.file, arguments.kind)
    _show(f"Wrote {arguments.file}. Edit its values, then run: hf-selfdestruct harden {arguments.file}\n")
    return 0


def _harden(arguments: argparse.Namespace) -> int:
    _quiet()
    from ..jobs.config import load_config, training_arguments
    from ..jobs.job import harden

    config = load_config(arguments.config, arguments.overrides)
    return _hardened(harden(config), training_arguments(config).output_dir)


def _hardened(report: AttackReport, folder: str | None, more: str = "") -> int:
    """Print the result on the main process, then shut all processes down together."""
    from accelerate import PartialState

    from ..publish.evidence import judge_limits

    processes = PartialState()
    if processes.is_main_process:
        more = more or f"Saved the hardened model, report, card and plots to {folder}\n"
        _show(f"{report.table()}{judge_limits(report)}\n{more}")
    processes.wait_for_everyone()
    processes.destroy_process_group()
    return 0


def _attack(arguments: argparse.Namespace) -> int:
    _quiet()
    from ..attacks.suites.ledger import storage_at
    from ..jobs.config import load_config
    from ..jobs.job import attack

    given = {"--suite": arguments.suite, "--workers": arguments.workers}
    config = load_config(arguments.config, [word for pair in given.items() if pair[1] for word in pair])
    output = Path(arguments.output)
    if not output.name or output.is_dir():
        raise ValueError(f"--output {output} is a folder; pass a file name, such as {output / 'report.json'}.")
    output.parent.mkdir(parents=True, exist_ok=True)
    report = attack(
        config,
        arguments.model,
        undefended=arguments.undefended,
        base=arguments.base,
        filtered=arguments.filtered,
        storage=arguments.storage or storage_at(output.with_suffix(".attacks.db")),
        workers=config.workers,
    )
    report.save(output)
    _show(report.table())
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from ..publish.manifest import REPORT
    from ..report.plots import save_plots
    from ..report.report import AttackReport
    from ..report.tables import comparison_table

    found = [Path(given) / REPORT if Path(given).is_dir() else given for given in arguments.reports]
    reports = [AttackReport.load(path) for path in found]
    if len(reports) > 1:
        if option := "--plots" if arguments.plots else "--html" if arguments.html else "":
            raise ValueError(f"{option} draws one report at a time, got {len(reports)}; pass a single REPORT.json.")
        _show(comparison_table(reports, arguments.reports))
        return 0
    _show(reports[0].table())
    if arguments.plots:
        for path in save_plots(reports[0], arguments.plots):
            _show(f"{path}\n")
    if arguments.html:
        _show(f"{_page(reports[0], arguments.reports[0], arguments.html)}\n")
    return 0


def _page(report: AttackReport, source: str, file: str) -> Path:
    """Write the page of a report; that of a hardened folder has the title of its card."""
    from ..publish.card import details_of
    from ..publish.card_details import CardDetails
    from ..publish.page import write_page

    return write_page(report, details_of(source) if Path(source).is_dir() else CardDetails(), file)


def _card(arguments: argparse.Namespace) -> int:
    from ..publish.manifest import renew_card

    _show(f"{renew_card(arguments.folder)}\n")
    return 0


def _push(arguments: argparse.Namespace) -> int:
    from ..publish.hub import planned, push

    if arguments.dry_run:
        files = planned(arguments.folder, gated=arguments.gated, key=arguments.sign)
        for name, size in files.items():
            _show(f"{size:>14,}  {name}\n")
        total = sum(files.values())
        _show(f"{total:>14,}  bytes in {len(files)} files would be uploaded to {arguments.repo_id}; nothing was sent\n")
        return 0
    commit = push(
        arguments.folder,
        arguments.repo_id,
        private=arguments.private or None,
        gated=arguments.gated,
        revision=arguments.revision,
        create_pr=arguments.create_pr,
        key=arguments.sign,
        replace=arguments.replace,
    )
    if commit.commit_description:
        _show(f"{commit.commit_description}\n")
    _show(f"{commit.pr_url or commit.commit_url}\n")
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from ..jobs.verification import verify

    if arguments.rerun and not arguments.config:
        raise ValueError("--rerun needs --config CONFIG.yaml: the report contains only fingerprints of the data.")
    found = verify(
        arguments.source,
        revision=arguments.revision,
        public_key=arguments.public_key,
        files_only=arguments.files_only,
    )
    _show("".join(f"{line}\n" for line in found.lines()))
    if found.problems:
        return FAILED
    return _rerun(found.folder, arguments) if arguments.rerun else 0


def _view(arguments: argparse.Namespace) -> int:
    from ..jobs.viewer import serve

    serve([arguments.source, *filter(None, [arguments.other])], arguments.port, _show)
    return 0


def _rerun(folder: Path, arguments: argparse.Namespace) -> int:
    _quiet()
    from ..jobs.config import load_config
    from ..jobs.rerun import rerun

    done = rerun(folder, load_config(arguments.config), count=arguments.rerun, seed=arguments.rerun_seed)
    _show("".join(f"{line}\n" for line in (*(one.line() for one in done.found), done.line())))
    return 0 if all(one.stands for one in done.found) else FAILED


def _fingerprint(arguments: argparse.Namespace) -> int:
    _quiet()
    from ..jobs.fingerprint import Fingerprint, check, make

    if arguments.step == "make":
        made = make(arguments.folder, probes=arguments.probes)
        made.save(arguments.file)
        _show(f"Wrote {arguments.file}: keep this file private; {made.rate()}\n")
        return 0
    made = Fingerprint.load(arguments.file)
    finding = check(made, _answers(arguments, made.labels))
    verdict = "the certified weights answer" if finding.same else "ANOTHER MODEL ANSWERS"
    _show(
        f"{verdict}: probabilities differ by {finding.difference:.2e} (threshold {finding.threshold:.2e}), and "
        f"{finding.differing} of {finding.probes} answers; {made.rate()}\n"
    )
    return 0 if finding.same else FAILED


def _answers(arguments: argparse.Namespace, labels: Sequence[str]) -> Answers:
    """Query an endpoint, or a model in a folder or on the Hub."""
    if "://" in arguments.source:
        from ..jobs.endpoint import SECONDS, endpoint_answers, hub_token

        token = hub_token() if arguments.send_token else None
        seconds = SECONDS if arguments.timeout is None else arguments.timeout
        return endpoint_answers(arguments.source, labels, token=token, seconds=seconds)
    if arguments.send_token or arguments.timeout is not None:
        raise ValueError(f"--send-token and --timeout apply only to an endpoint URL; got {arguments.source}.")
    from ..jobs.fingerprint import folder_answers
    from ..jobs.verification import found_at

    return folder_answers(found_at(arguments.source)[0], labels)


def _show(text: str) -> None:
    """Print text with all control characters but line breaks escaped: the text may contain untrusted strings."""
    text = "\n".join(map(printable, text.split("\n")))
    if isinstance(sys.stdout, TextIOWrapper):  # an unprintable character must not fail a job after hours of work
        sys.stdout.reconfigure(errors="replace")
    Console(soft_wrap=True, highlight=False, markup=False).print(text, end="")


COMMANDS = {
    "demo": _demo,
    "init": _init,
    "harden": _harden,
    "attack": _attack,
    "report": _report,
    "card": _card,
    "push": _push,
    "verify": _verify,
    "view": _view,
    "fingerprint": _fingerprint,
}


if __name__ == "__main__":
    sys.exit(main())
