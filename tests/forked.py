"""Real processes without the wait for their imports: forked from one that has loaded the large libraries.

What reads variables of Hugging Face when it is imported is not loaded beforehand: each process reads its own.
"""

from __future__ import annotations

import atexit
import gc
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

HEAVY = (
    *("torch", "torch._dynamo", "torch.distributed.tensor", "torch.distributed.run", "torch.testing"),
    *("numpy", "scipy.optimize", "scipy.stats", "sklearn.linear_model", "sklearn.metrics", "pandas", "pyarrow.dataset"),
    *("matplotlib.pyplot", "sqlalchemy.orm", "jinja2", "rich.console", "yaml", "PIL.Image", "requests"),
    *("httpx", "httpx2"),  # one of which huggingface_hub has
)
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload([*HEAVY])


def run_code(code: str, words: Sequence[str]) -> None:
    """As ``python -c``."""
    sys.argv = ["-c", *words]
    exec(compile(code, "<string>", "exec"), {"__name__": "__main__"})


def run_script(path: str, words: Sequence[str]) -> None:
    """As ``python PATH``."""
    sys.argv = [path, *words]
    runpy.run_path(path, run_name="__main__")


def run_module(name: str, words: Sequence[str]) -> None:
    """As ``python -m NAME``."""
    sys.argv = [name, *words]
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def start(
    act: Callable[..., None], *arguments: Any, output: Path, folder: Path, variables: Mapping[str, str]
) -> BaseProcess:
    """Run a function in a new process with these variables; it writes ``stdout`` and ``stderr`` to ``output``."""
    process = _CONTEXT.Process(target=_inside, args=(act, arguments, output, folder, {**variables}))
    process.start()
    return process


def run(
    act: Callable[..., None], *arguments: Any, folder: Path, variables: Mapping[str, str], seconds: float = 1200
) -> subprocess.CompletedProcess[str]:
    """Run a function in a new process; what it returned and wrote."""
    with tempfile.TemporaryDirectory() as output:
        process = start(act, *arguments, output=Path(output), folder=folder, variables=variables)
        process.join(seconds)
        if process.exitcode is None:
            process.kill()
            raise subprocess.TimeoutExpired(str(arguments), seconds)
        wrote = [Path(output, name).read_text(encoding="utf-8") for name in ("stdout", "stderr")]
        return subprocess.CompletedProcess(arguments, process.exitcode, *wrote)


def _inside(act: Callable[..., None], arguments: Any, output: Path, folder: Path, variables: dict[str, str]) -> None:
    for number, name in ((1, "stdout"), (2, "stderr")):
        file = os.open(output / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    gc.freeze()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(variables)
    try:
        act(*arguments)
    finally:
        atexit._run_exitfuncs()
