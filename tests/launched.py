"""Scripts launched in several real processes, as a user would launch them, and what they hand in."""

from __future__ import annotations

import faulthandler
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import forked
import torch
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

TESTS = Path(__file__).parent
LOST = ("Connection closed", "Connection reset", "Broken pipe")  # what a process says whose peer is gone


def launch(script: Path | str, *arguments: str, processes: int, by: str = "fork") -> subprocess.CompletedProcess[str]:
    """Run a script, or a module by its name, in several processes, one thread in each.

    Args:
        script: The script, or the module.
        arguments: Words for it.
        processes: How many.
        by: ``accelerate`` (launch) for a module, or for a script ``fork``: the launcher of ``torchrun`` and its
            processes, forked when everything is imported.
    """
    start = [
        *("accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes), "--num_machines", "1"),
        *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
    ]
    paths = f"{TESTS.parent}{os.pathsep}{TESTS}"
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "ACCELERATE_USE_CPU": "true"}
    if by == "fork":
        return forked.run(_launcher, str(script), arguments, processes, folder=Path.cwd(), variables=variables)
    return subprocess.run(
        [sys.executable, "-m", *start, "-m", str(script), *arguments],
        env=variables,
        capture_output=True,
        text=True,
        timeout=1200,
    )


def _launcher(script: str, arguments: Sequence[str], processes: int) -> None:
    """What ``torchrun`` does, and its processes share what is imported here."""
    import hf_selfdestruct.trainer.trainer  # noqa: F401

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=str(os.getpid()),
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        start_method="fork",
        max_restarts=0,
    )
    elastic_launch(config, _worker)(script, arguments)


def _worker(script: str, arguments: Sequence[str]) -> None:
    faulthandler.enable()  # of a crash in compiled code, its place is all that can be known later
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):  # as in a new program: no handler of the launcher's
        signal.signal(number, signal.SIG_DFL)
    try:
        forked.run_script(script, arguments)
    except Exception as error:
        sys.excepthook(*sys.exc_info())  # torch says there which rank failed
        sys.stderr.flush()
        if any(lost in str(error) for lost in LOST):
            time.sleep(30)  # the launcher reports one process: the one whose end was the cause, and ends this one
        os._exit(1)


def digest_of(state: Mapping[str, Tensor]) -> str:
    """One number for all bits of some tensors."""
    parts = [value.detach().contiguous().numpy().tobytes() for _, value in sorted(state.items())]
    return hashlib.sha256(b"".join(parts)).hexdigest()


def hand_in(folder: Path, name: str, state: Mapping[str, Tensor], **found: Any) -> None:
    """From every process a digest and what it found; the tensors themselves from the first."""
    process = PartialState()
    told = {"world": process.num_processes, "digest": digest_of(state), **found}
    (folder / f"{name}-{process.process_index}.json").write_text(json.dumps(told))
    if process.is_main_process:
        save_file(
            {n: value.detach().clone().contiguous() for n, value in state.items()}, folder / f"{name}.safetensors"
        )


def leave() -> None:
    """End in good order, when everyone has come so far."""
    PartialState().wait_for_everyone()
    PartialState().destroy_process_group()


def handed_in(folder: Path, name: str, processes: int) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """The first process's tensors, and what each of them found."""
    told = [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in range(processes)]
    return load_file(folder / f"{name}.safetensors"), told


def apart(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Relative distance of two lots of tensors."""
    gap, whole = (
        torch.cat([value.double().flatten() for value in values]).norm()
        for values in ([found[n] - expected[n] for n in expected], expected.values())
    )
    return (gap / whole).item()
