"""What happens to a training in two processes when something goes wrong: tried, and written down.

python tests/faults.py benchmarks/faults.md
"""

from __future__ import annotations

import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from faulty_training import END, FAULTS, NAN, PICTURES, STEPS, UNDISTURBED
from launched import LOST, TESTS, handed_in, launch

from hf_selfdestruct.trainer.intact import last_complete

SCRIPT, PROCESSES = TESTS / "faulty_training.py", 2
OTHERS = ("ChildFailedError", *LOST)  # the launcher, and who lost a peer
ATTACKS = "Attacks that are killed, and go on to the same report, are tried in `tests/attacks/test_workers.py`.\n"
OUTCOMES = {"SIGKILL": "killed", "SIGTERM": "ended by SIGTERM"}


@dataclass(frozen=True)
class Outcome:
    """What was seen.

    Attributes:
        fault: A key of ``FAULTS``.
        code: Exit code of the launcher.
        message: What the first process that failed said.
        kept: Outer step of the newest complete checkpoint afterwards.
        again: Exit code of the same command, run again.
        digests: Of weights and learned adversaries in the end, of every process.
        worlds: World sizes that the processes saw.
        trouble: What the second try said, if it failed.
    """

    fault: str
    code: int
    message: str
    kept: int
    again: int
    digests: tuple[str, ...]
    worlds: tuple[int, ...]
    trouble: str = ""


def tried(fault: str, folder: Path, scope: str) -> Outcome:
    """Let it happen, then run the same command again, which goes on from the last complete checkpoint."""
    folder.mkdir(parents=True)
    struck = launch(SCRIPT, str(folder), fault, scope, processes=PROCESSES)
    kept = int(last_complete(str(folder)).rpartition("-")[2])
    for file in folder.rglob("optimizer.pt"):
        if file.is_symlink():  # room is made
            file.unlink()
    again = launch(SCRIPT, str(folder), fault, scope, processes=PROCESSES) if struck.returncode else struck
    _, found = handed_in(folder, END, PROCESSES) if not again.returncode else ({}, [])
    return Outcome(
        fault,
        struck.returncode,
        message_of(struck.stderr) if struck.returncode else "",
        kept,
        again.returncode,
        tuple(end["digest"] for end in found),
        tuple(end["world"] for end in found),
        again.stderr[-3000:] if again.returncode else "",
    )


def message_of(text: str) -> str:
    """The first error of a process that lost no peer, else the signal that ended the first one."""
    errors = re.findall(r"\[rank\d\]: (\w*Error: .*)", text)
    own = [error for error in errors if not any(other in error for other in OTHERS)]
    if own:
        return max(own, key=lambda error: error.startswith(("OSError", "FloatingPointError")))
    first = re.search(r"first observed failure\):.*?\((SIG\w+)\)", text, re.DOTALL)
    return OUTCOMES.get(first[1], first[1]) if first else ""


def table(outcomes: list[Outcome], scope: str) -> str:
    """The outcomes as a table."""
    lines = [
        f"Toy BERT with dropout, {STEPS} outer steps, a checkpoint after every second one, {PROCESSES} processes by "
        f"`torchrun` (gloo, CPU), `adversary.scope={scope}`. Each fault strikes after 4 steps; then the same command "
        "is run again.",
        "",
        "| fault | exit code | what it says | newest complete checkpoint | run again |",
        "|---|---|---|---|---|",
    ]
    undisturbed = {o.fault: o.digests for o in outcomes}
    for o in outcomes[2:]:
        same = o.again == 0 and o.digests == undisturbed[PICTURES if o.fault == NAN else UNDISTURBED]
        end = "not needed" if o.code == 0 else "the weights of an undisturbed run, bitwise" if same else "differs"
        said = re.sub(r"/\S+?(checkpoint-\d+)", r"\1", o.message).replace("|", "/")
        lines.append(f"| {o.fault} | {o.code} | {said or 'nothing: it trains, both take the row'} | {o.kept} | {end} |")
    return "\n".join(lines) + "\n"


def main(target: str) -> None:
    """Try everything in both scopes and write the table."""
    text = ["# Faults\n"]
    for scope in ("local", "global"):
        with tempfile.TemporaryDirectory() as folder:
            done = [tried(fault, Path(folder, str(i)), scope) for i, fault in enumerate(FAULTS)]
        text.append(table(done, scope))
        Path(target).write_text("\n".join([*text, ATTACKS]))


if __name__ == "__main__":
    main(sys.argv[1])
