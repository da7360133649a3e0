"""The answers of a served classifier: the secret probes go to the named address alone, and little is read from it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from huggingface_hub import get_token
from huggingface_hub.utils import httpx

from ..files import printable
from ..publish.hub import LOG_IN
from ..untrusted_json import checked, parse_json

if TYPE_CHECKING:
    from .fingerprint import Answers

SECONDS = 120.0  # for all answers together
MOST_BYTES = 1024 * 1024  # of one answer


@dataclass(frozen=True)
class Score:
    """What an endpoint says of one class.

    Attributes:
        label: Its name.
        score: Its probability.
    """

    label: str
    score: float


def endpoint_answers(url: str, labels: Sequence[str], *, token: str | None = None, seconds: float = SECONDS) -> Answers:
    """The answers of an endpoint that classifies texts or images (Inference Endpoints, or what speaks like them).

    No redirect is followed, so that neither the probes nor the token reach another host.

    Args:
        url: Address of the endpoint.
        labels: Names of the classes, in the order wanted.
        token: A token to send; by default none is sent.
        seconds: Time for all answers together.

    Returns:
        A function of the texts, for :func:`fingerprint.check`. It raises ``ConnectionError`` where the endpoint cannot
        be reached, refuses, redirects, is too slow, or answers anything but probabilities, and ``ValueError`` where the
        probabilities are of other classes.

    Raises:
        ValueError: No address of an endpoint, a token for an address without https, or no positive time.
    """
    address = _address(url, token)
    if not 0 < seconds < math.inf:
        raise ValueError(f"the time for a check must be a positive number of seconds; got {seconds}.")

    def answers(texts: Sequence[str]) -> tuple[np.ndarray, int]:
        try:
            found = asyncio.run(_asked(url, address, texts, len(labels), token, seconds))
        except TimeoutError:
            raise ConnectionError(
                f"{address} did not answer {len(texts)} texts within {seconds:g} seconds: allow more with --timeout; "
                "nothing was checked."
            ) from None
        except httpx.HTTPError as error:  # its message may hold the headers that were sent
            raise ConnectionError(
                f"{address} could not be reached ({type(error).__name__}): check the address and the network; nothing "
                "was checked."
            ) from None
        rows = [_in_order(scores, labels, address) for scores in found]
        # As coarse as the finest number given: an endpoint may round.
        decimals = max(len(f"{score:.16f}".rstrip("0").partition(".")[2]) for row in rows for score in row)
        return np.array(rows), decimals

    return answers


def hub_token() -> str:
    """The token of ``hf auth login`` or ``HF_TOKEN``.

    Raises:
        ValueError: There is none.
    """
    if not (token := get_token()):
        raise ValueError(f"no Hub token to send: {LOG_IN}.")
    return token


def _address(url: str, token: str | None) -> str:
    """The address as messages may show it: a query may hold a secret."""
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"not an address of an endpoint: {printable(str(error))}.") from None
    address = f"{parts.scheme}://{parts.netloc.decode()}{parts.path}"
    if parts.scheme not in ("http", "https") or not parts.host:
        raise ValueError(f"an endpoint's address begins with https:// or http:// and a host; got {address}.")
    if parts.userinfo:
        raise ValueError(f"{address}: an address with a user name or a password in it is refused; leave both out.")
    if token is not None and parts.scheme != "https":
        raise ValueError(f"{address}: a token is sent over https only; use an https:// address, or send no token.")
    return address


async def _asked(
    url: str, address: str, texts: Sequence[str], many: int, token: str | None, seconds: float
) -> list[dict[str, float]]:
    headers = {"Accept-Encoding": "identity"}  # a compressed answer could be small and huge
    headers |= {} if token is None else {"Authorization": f"Bearer {token}"}
    async with (
        asyncio.timeout(seconds),  # a limit for each read would let an endpoint drip for ever
        httpx.AsyncClient(headers=headers, follow_redirects=False, timeout=None) as client,
    ):
        found = []
        for text in texts:
            question = {"inputs": text, "parameters": {"top_k": many}}
            async with client.stream("POST", url, json=question) as response:
                if response.status_code != 200:
                    raise ConnectionError(f"{address} {_refusal(response.status_code)}; nothing was checked.")
                found.append(_scores(await _body(response, address), address))
        return found


async def _body(response: httpx.Response, address: str) -> bytes:
    content = b""
    async for piece in response.aiter_raw():
        content += piece
        if len(content) > MOST_BYTES:
            raise ConnectionError(f"{address} answered more than {MOST_BYTES} bytes; nothing was checked.")
    return content


def _scores(content: bytes, address: str) -> dict[str, float]:
    """The probability of each class in an answer to one text: ``[{"label", "score"}, ...]``, or a list around that."""
    try:
        raw = parse_json(content.decode("utf-8"))
        if isinstance(raw, list) and len(raw) == 1 and isinstance(raw[0], list):
            raw = raw[0]
        scores = checked(tuple[Score, ...], raw, "answer")
        found = {one.label: float(one.score) for one in scores}
        if not scores or len(found) < len(scores):
            raise ValueError("a probability for each class, and one only, is expected.")
        if wrong := [score for score in found.values() if not 0 <= score <= 1]:
            raise ValueError(f"{wrong[0]} is no probability.")
    except ValueError as error:
        raise ConnectionError(
            f"{address} did not answer with a classifier's probabilities: {printable(str(error))[:200]} Nothing was "
            "checked."
        ) from None
    return found


def _in_order(scores: dict[str, float], labels: Sequence[str], address: str) -> list[float]:
    if scores.keys() != {*labels}:
        given, wanted = (printable(", ".join(sorted(names))) for names in (scores, labels))
        raise ValueError(f"{address} has the classes {given}; the fingerprint is of {wanted}.")
    return [scores[label] for label in labels]


def _refusal(status: int) -> str:
    if 300 <= status < 400:
        return f"redirects elsewhere ({status}), and the probes are secret: give the address that it redirects to"
    if status in (401, 403):
        return f"refused ({status}): --send-token sends your Hub token; check what the token may do"
    if status == 429 or status >= 500:
        return f"is too busy or broken ({status}): try again later"
    return f"refused ({status}): check the address"
