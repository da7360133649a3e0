"""Scripts launched in several real processes, as a user would launch them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def launch(
    script: Path | str, *arguments: str, processes: int, by: str = "torchrun"
) -> subprocess.CompletedProcess[str]:
    """Run a script, or a module by its name, by ``torchrun`` or ``accelerate launch``, one thread in each process."""
    start = {
        "torchrun": ["torch.distributed.run", "--nproc_per_node", str(processes), "--master_port", free_port()],
        "accelerate": [
            *("accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes), "--num_machines", "1"),
            *("--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", free_port()),
        ],
    }[by]
    paths = f"{TESTS.parent}{os.pathsep}{TESTS}"
    return subprocess.run(
        [sys.executable, "-m", *start, *(["-m"] if isinstance(script, str) else []), str(script), *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=300,
    )
