"""Is the served model the certified one? Its answers to private questions, and how much honest serving changes them."""

from __future__ import annotations

import dataclasses
import json
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from ..files import read_text, weights_hash, write_whole
from ..untrusted_json import checked, parse_json
from .served import probes_of, served

DECIMALS = 3  # of an answer, at least: coarser ones hide the changes that are looked for
MOST_BYTES = 16 * 1024 * 1024  # of a file
HALVES = 25  # random halves of the probes, each measured as a check would be
MARGIN = 10.0  # how much more than what was measured honest serving may differ: other machines were not there
# Ways of honest serving: batch size, whether every text is padded to the longest of all, attention, threads.
SERVINGS = (
    (1, False, "eager", 1),
    (16, False, "sdpa", 1),
    (5, True, "eager", 2),
    (64, False, "eager", 1),
    (3, False, "sdpa", 2),
    (64, True, "sdpa", 1),
)
Answers = Callable[[Sequence[str]], tuple[np.ndarray, int]]


@dataclass(frozen=True)
class Fingerprint:
    """What certified weights answer to questions that nobody else knows. Keep it private: who knows it can imitate it.

    Attributes:
        probes: The texts, or the images in base64.
        labels: Names of the classes.
        probabilities: Of every class, for every probe.
        sha256: Of the weights.
        threshold: Root mean square difference of probabilities above which another model answers.
        largest: The largest difference that honest serving gave.
        false_alarms: Checks of honest servings, not used for the threshold, that were above it.
        servings: Number of those: of each held-out way of serving, :data:`HALVES` random halves of the probes.
    """

    probes: tuple[str, ...]
    labels: tuple[str, ...]
    probabilities: tuple[tuple[float, ...], ...]
    sha256: str
    threshold: float
    largest: float
    false_alarms: int
    servings: int

    def __post_init__(self) -> None:
        """Check that the parts fit together."""
        shape = {len(row) for row in self.probabilities}
        if len(self.probes) != len(self.probabilities) or shape != {len(self.labels)}:
            raise ValueError("a fingerprint needs probes, labels, and a probability of each label for each probe.")
        if not 0 < self.threshold < 1:
            raise ValueError(f"a fingerprint's threshold must lie between 0 and 1; got {self.threshold}.")

    def expected(self) -> np.ndarray:
        """The certified probabilities, shape ``(probes, labels)``."""
        return np.array(self.probabilities)

    def rate(self) -> str:
        """The measured false-alarm rate. The measurements share weights, machine and probes: no bound follows."""
        return f"{self.false_alarms} of {self.servings} checks of honest servings raised a false alarm"

    def save(self, path: str | Path) -> None:
        """Write the JSON, which nobody but the file's owner may read."""
        write_whole(path, json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True) + "\n", private=True)

    @classmethod
    def load(cls, path: str | Path) -> Fingerprint:
        """Read what :meth:`save` wrote.

        Raises:
            ValueError: No fingerprint; the message names the field.
        """
        try:
            made: Fingerprint = checked(cls, parse_json(read_text(path, MOST_BYTES)), "fingerprint")
        except ValueError as error:
            raise ValueError(f"{path}: not a fingerprint: {error}") from None
        return made


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        difference: Root mean square difference of the probabilities to the certified ones.
        threshold: What it may be.
        differing: Probes whose likeliest class is another one.
        probes: Number of probes.
    """

    difference: float
    threshold: float
    differing: int
    probes: int

    @property
    def same(self) -> bool:
        """Whether the certified weights answer."""
        return self.difference <= self.threshold


def make(folder: str | Path, *, probes: int = 64, seed: int | None = None) -> Fingerprint:
    """Record a model's answers, and how much honest serving changes them.

    The first of :data:`SERVINGS` is what is recorded. Every other one of the rest sets the threshold, times
    :data:`MARGIN`; false alarms are counted on those between, each on random halves of the probes.

    Args:
        folder: Folder of a classifier of texts or of images.
        probes: How many to ask.
        seed: Makes the probes; by default a secret one that nobody keeps.

    Raises:
        ValueError: Too few probes.
    """
    if probes < 8:
        raise ValueError(f"a fingerprint needs at least 8 probes; got {probes}.")
    texts = probes_of(folder, probes, secrets.randbits(62) if seed is None else seed)
    expected, labels = served(folder, texts, *SERVINGS[0])
    found = [served(folder, texts, *serving)[0] for serving in SERVINGS[1:]]
    halves = [np.random.default_rng(i).permutation(probes)[: probes // 2] for i in range(HALVES)]
    measured = [[_difference(one[rows], expected[rows]) for rows in halves] for one in found]
    used, held_out = [*chain(*measured[::2])], [*chain(*measured[1::2])]
    threshold = MARGIN * max(*used, 1e-7)  # no serving may be bitwise the same, nor one in single precision further off
    return Fingerprint(
        probes=tuple(texts),
        labels=labels,
        probabilities=tuple(map(tuple, expected.tolist())),
        sha256=weights_hash(folder),
        threshold=threshold,
        largest=max(*used, *held_out),
        false_alarms=sum(one > threshold for one in held_out),
        servings=len(held_out),
    )


def check(fingerprint: Fingerprint, answers: Answers) -> Finding:
    """Ask somebody's model the probes.

    Args:
        fingerprint: What the certified weights answer.
        answers: Probes to probabilities ``(probes, labels)`` in the fingerprint's order, and the number of decimals
            that they are given with; see :func:`folder_answers` and ``endpoint.endpoint_answers``.

    Raises:
        ValueError: The answers are too coarse to tell anything.
    """
    served, decimals = answers(fingerprint.probes)
    if decimals < DECIMALS:
        raise ValueError(
            f"the answers have {decimals} decimals: too coarse to tell the certified weights from others; a check "
            f"needs {DECIMALS}."
        )
    expected = np.round(fingerprint.expected(), decimals)
    return Finding(
        difference=_difference(served, expected),
        threshold=fingerprint.threshold + 10.0**-decimals / 2,  # some roundings fall to the other side
        differing=int((served.argmax(1) != expected.argmax(1)).sum()),
        probes=len(fingerprint.probes),
    )


def folder_answers(folder: str | Path, labels: Sequence[str]) -> Answers:
    """The answers of a model in a folder, whose classes must be the fingerprint's.

    Raises:
        ValueError: It has other classes.
    """

    def answers(probes: Sequence[str]) -> tuple[np.ndarray, int]:
        answered, own = served(folder, probes, *SERVINGS[1])
        if own != tuple(labels):
            raise ValueError(f"{folder} tells {', '.join(own)}; the fingerprint is of {', '.join(labels)}.")
        return answered, 16

    return answers


def _difference(one: np.ndarray, two: np.ndarray) -> float:
    return float(np.sqrt(np.mean((one - two) ** 2)))
