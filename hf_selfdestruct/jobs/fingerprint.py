"""Check whether a served model is the certified one, by its answers to secret probes.

A threshold separates other weights from other ways of serving the same weights.
"""

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

DECIMALS = 3  # minimum of an answer: coarser answers hide the differences between models
MOST_BYTES = 16 * 1024 * 1024  # size limit of a fingerprint file
HALVES = 25  # random halves of the probes; each is measured like a check
MARGIN = 10.0  # factor on the measured difference: other machines, which were not measured, may differ more
# Ways to serve the same weights: batch size, whether to pad every text to the longest of all, attention, threads.
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
    """Answers of certified weights to secret probes. Keep the file private: a provider who has it can fake the answers.

    Attributes:
        probes: The texts, or the images in base64.
        labels: Names of the classes.
        probabilities: Probabilities of every class, for every probe.
        sha256: Hash of the weights.
        threshold: Root mean square difference of probabilities above which the check reports another model.
        largest: Largest difference measured between two ways to serve the same weights.
        false_alarms: Number of held-out checks of the same weights that exceeded the threshold.
        servings: Number of held-out checks: :data:`HALVES` random halves of the probes per held-out way of serving.
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
        """Check the shapes and the threshold."""
        shape = {len(row) for row in self.probabilities}
        if len(self.probes) != len(self.probabilities) or shape != {len(self.labels)}:
            raise ValueError("a fingerprint needs probes, labels, and one probability per label for each probe.")
        if not 0 < self.threshold < 1:
            raise ValueError(f"a fingerprint's threshold must be between 0 and 1; got {self.threshold}.")

    def expected(self) -> np.ndarray:
        """Return the certified probabilities, of shape ``(probes, labels)``."""
        return np.array(self.probabilities)

    def rate(self) -> str:
        """Describe the measured false-alarm rate; it is no bound, as all checks share weights, machine and probes."""
        return f"{self.false_alarms} of {self.servings} checks of the same weights raised a false alarm"

    def save(self, path: str | Path) -> None:
        """Write the JSON to a file that only its owner may read."""
        write_whole(path, json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True) + "\n", private=True)

    @classmethod
    def load(cls, path: str | Path) -> Fingerprint:
        """Read a file written by :meth:`save`.

        Raises:
            ValueError: The file is not a fingerprint; the message names the field.
        """
        try:
            made: Fingerprint = checked(cls, parse_json(read_text(path, MOST_BYTES)), "fingerprint")
        except ValueError as error:
            raise ValueError(f"{path}: not a fingerprint: {error}") from None
        return made


@dataclass(frozen=True)
class Finding:
    """The result of a check.

    Attributes:
        difference: Root mean square difference from the certified probabilities.
        threshold: Largest difference that passes.
        differing: Number of probes with another predicted class.
        probes: Number of probes.
    """

    difference: float
    threshold: float
    differing: int
    probes: int

    @property
    def same(self) -> bool:
        """Whether the difference is within the threshold."""
        return self.difference <= self.threshold


def make(folder: str | Path, *, probes: int = 64, seed: int | None = None) -> Fingerprint:
    """Record a model's answers, and how much they vary between ways to serve the same weights.

    The answers of the first of :data:`SERVINGS` are recorded. Every second one of the rest sets the threshold, times
    :data:`MARGIN`; the others are held out and count false alarms. Both use random halves of the probes.

    Args:
        folder: Folder of a text or image classifier.
        probes: Number of probes.
        seed: Seed of the probes; by default a secret one that is not stored.

    Raises:
        ValueError: There are too few probes.
    """
    if probes < 8:
        raise ValueError(f"a fingerprint needs at least 8 probes; got {probes}.")
    texts = probes_of(folder, probes, secrets.randbits(62) if seed is None else seed)
    expected, labels = served(folder, texts, *SERVINGS[0])
    found = [served(folder, texts, *serving)[0] for serving in SERVINGS[1:]]
    halves = [np.random.default_rng(i).permutation(probes)[: probes // 2] for i in range(HALVES)]
    measured = [[_difference(one[rows], expected[rows]) for rows in halves] for one in found]
    used, held_out = [*chain(*measured[::2])], [*chain(*measured[1::2])]
    threshold = MARGIN * max(*used, 1e-7)  # all answers may be bitwise equal here, yet differ in float32 elsewhere
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
    """Send the probes to a model and compare its answers with the fingerprint.

    Args:
        fingerprint: The answers of the certified weights.
        answers: Function from probes to probabilities ``(probes, labels)`` in the fingerprint's order, and to their
            number of decimals; see :func:`folder_answers` and ``endpoint.endpoint_answers``.

    Raises:
        ValueError: The answers have too few decimals for a check.
    """
    served, decimals = answers(fingerprint.probes)
    if decimals < DECIMALS:
        raise ValueError(
            f"the answers have {decimals} decimals, too few to distinguish the certified weights from others; use an "
            f"endpoint that returns at least {DECIMALS}."
        )
    expected = np.round(fingerprint.expected(), decimals)
    return Finding(
        difference=_difference(served, expected),
        threshold=fingerprint.threshold + 10.0**-decimals / 2,  # rounding may differ by half a unit
        differing=int((served.argmax(1) != expected.argmax(1)).sum()),
        probes=len(fingerprint.probes),
    )


def folder_answers(folder: str | Path, labels: Sequence[str]) -> Answers:
    """Query a model in a folder; it must have the classes of the fingerprint.

    Raises:
        ValueError: The model has other classes.
    """

    def answers(probes: Sequence[str]) -> tuple[np.ndarray, int]:
        answered, own = served(folder, probes, *SERVINGS[1])
        if own != tuple(labels):
            raise ValueError(f"{folder} has the classes {', '.join(own)}; the fingerprint has {', '.join(labels)}.")
        return answered, 16

    return answers


def _difference(one: np.ndarray, two: np.ndarray) -> float:
    return float(np.sqrt(np.mean((one - two) ** 2)))
