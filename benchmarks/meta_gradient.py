"""Time, memory and accuracy of one outer step by every way to its meta-gradient, peers included.

    pip install -c constraints.txt -e '.[demo,benchmark]'
    python benchmarks/meta_gradient.py --inner-steps 4 --repeats 5
    python benchmarks/meta_gradient.py --inner-steps 1 2 8 16 32 --repeats 1
    python benchmarks/meta_gradient.py --table
    python benchmarks/meta_gradient.py --plot

What is measured stands in ``outer_steps.py``. Every measurement is a process of its own; methods take turns, so that
a machine's moods hit all alike. Each result is appended to ``meta_gradient.jsonl`` at once, and what stands there is
not measured again: a killed run goes on where it was. What would not fit into memory is left out, and said to be.
"""

import argparse
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import meta_gradient_report as report
from outer_steps import OURS, PEERS, UNITS, Job

HERE = Path(__file__).parent
UNROLLING = ("unrolled", *PEERS)  # their memory grows with K
EPSILONS = (1e-6, 1e-4)


def timings(options: argparse.Namespace) -> Iterator[Job]:
    """Measurements of time and memory, interleaved."""
    for repeat, steps in itertools.product(range(options.repeats), options.inner_steps):
        for method in options.only:
            yield Job(method, 0 if method in UNITS else steps, repeat, layers=options.layers)


def errors(options: argparse.Namespace) -> Iterator[Job]:
    """Comparisons with ``unrolled`` in float64, that first."""
    methods = sorted({*options.only} - {*UNITS}, key=lambda name: name != "unrolled")
    for steps, epsilon in itertools.product(options.error_steps, EPSILONS):
        made = Job("unrolled", steps, 0, True, "float64", epsilon, options.layers)
        jobs = [
            Job(method, steps, 0, True, dtype, epsilon, options.layers)
            for dtype in ("float64", "float32")
            for method in methods
        ]
        yield from [made, *jobs] if methods else []


def missing(job: Job, records: list[report.Record], again: bool) -> bool:
    """Whether a job has no result yet; the reference of missing comparisons is made anew if it is gone."""
    if job.error and job.method == "unrolled" and job.dtype == "float64" and not job.reference().exists():
        return again
    return not any(report.is_of(record, job) for record in records)


def too_large(job: Job, records: list[report.Record], limit: float) -> float:
    """Megabytes that a job is expected to need, if that is more than ``limit``; else 0."""
    if job.method not in UNROLLING or job.error:
        return 0.0
    expected = report.expected(
        "peak_mb", job.method, job.inner_steps, [r for r in records if r["layers"] == job.layers]
    )
    return expected if expected > limit else 0.0


def measure(job: Job) -> report.Record:
    """Run one job in its own process."""
    command = [sys.executable, str(HERE / "outer_steps.py"), json.dumps(vars(job))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{job} ended with status {done.returncode}:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def run(options: argparse.Namespace, ledger: Path) -> None:
    """Measure what is missing, one job after the other."""
    records = report.read(ledger)
    comparisons = list(errors(options))
    again = any(missing(job, records, again=False) for job in comparisons)
    every = dict.fromkeys([*timings(options), *comparisons])
    jobs = [job for job in every if missing(job, records, again)]
    for number, job in enumerate(jobs, 1):
        if needed := too_large(job, records, options.limit_mb):
            say(f"{number}/{len(jobs)} {job.method} K={job.inner_steps}: left out, about {needed:.0f} MB expected")
            continue
        record = measure(job)
        if not any(report.is_of(other, job) for other in records):
            records.append(record)
            with ledger.open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        shown = {name: record[name] for name in ("seconds", "peak_mb", "cosine", "relative_error") if name in record}
        say(f"{number}/{len(jobs)} {job.method} K={job.inner_steps} {job.dtype} {shown}")


def say(text: str) -> None:
    """A line for who waits."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> None:
    """Measure, or show what was measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = (*UNITS, *OURS, *PEERS)
    parser.add_argument("--inner-steps", type=int, nargs="+", default=[4], help="values of K")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=every, default=every, metavar="METHOD", help=", ".join(every))
    parser.add_argument("--error-steps", type=int, nargs="*", default=[4], help="values of K to compare gradients at")
    parser.add_argument("--limit-mb", type=float, default=12_000, help="what would need more is left out")
    parser.add_argument("--layers", type=int, default=0, help="cut the model to so many layers, to try things out")
    parser.add_argument("--output", type=Path, default=HERE / "meta_gradient.json", help="its .jsonl is the ledger")
    parser.add_argument("--table", action="store_true", help="write .json and .md")
    parser.add_argument("--plot", action="store_true", help="write .png")
    options = parser.parse_args()
    ledger = options.output.with_suffix(".jsonl")
    if not (options.table or options.plot):
        run(options, ledger)
    records = [record for record in report.read(ledger) if record["layers"] == options.layers]
    if options.table:
        report.write_table(records, options.output)
    if options.plot:
        report.write_plot(records, options.output.with_suffix(".png"))


if __name__ == "__main__":
    main()
