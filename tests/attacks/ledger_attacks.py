"""Attacks of tests: one reaches what it is given, counts its calls, fails or is killed; in another, processes meet."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import torch

from hf_selfdestruct.attacks import Attack, Outcome
from hf_selfdestruct.attacks.suites.ledger import Ledger
from hf_selfdestruct.report.attack_run import Scores

HOLD = """
import sys, time
from hf_selfdestruct.attacks.suites.ledger import Ledger
with Ledger(sys.argv[1], grace=float(sys.argv[2])).claim("study") as ours:
    print(ours, flush=True)
    time.sleep(60)
"""

Crash = torch.linalg.LinAlgError


class Counting(Attack):
    """Reaches, for each setting, the selection score or the outcome given for it, or raises that error."""

    def __init__(self, space, *, test=None, dies_at=None, name="counting"):
        self.given, self.test, self.dies_at, self.name = space, test or {}, dies_at, name
        self.calls = []

    def space(self):
        return [{"choice": choice} for choice in self.given]

    def run(self, trial):
        if len(self.calls) == self.dies_at:
            raise KeyboardInterrupt
        choice = trial.settings["choice"]
        self.calls.append((choice, trial.seed, trial.examples, trial.target.role))
        reached = self.given[choice]
        if isinstance(reached, Exception):
            raise reached
        if isinstance(reached, Outcome):
            return reached
        reached += trial.seed % 100 / 100
        test = self.test.get(choice, reached / 2)
        return Outcome(Scores(reached, reached, reached, 0.5), Scores(test, test, test, 0.5), steps=7)


class Meeting(Attack):
    """Waits until two processes have been at work on it: each leaves a file in a folder."""

    name = "meeting"

    def __init__(self, folder):
        self.folder = str(folder)

    def space(self):
        return [{}]

    def run(self, trial):
        Path(self.folder, str(os.getpid())).touch()
        end = time.monotonic() + 300
        while len(os.listdir(self.folder)) < 2:
            if time.monotonic() > end:
                raise TimeoutError("no other process came.")
            time.sleep(0.05)
        return Outcome(Scores(0.5, 0.5, 0.5, 0.5), Scores(0.5, 0.5, 0.5, 0.5), steps=1)


@contextlib.contextmanager
def held_elsewhere(storage, grace):
    """Another process holds the claim."""
    Ledger(storage)  # the file is there before two processes want to make it
    process = subprocess.Popen([sys.executable, "-c", HOLD, storage, str(grace)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline().strip() == "True"
        yield process
    finally:
        process.kill()
        process.wait()
