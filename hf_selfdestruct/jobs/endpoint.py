"""Query a served classifier: send the secret probes only to the given address, and limit what is read from it."""

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

SECONDS = 120.0  # total time limit of all answers
MOST_BYTES = 1024 * 1024  # size limit of one answer


@dataclass(frozen=True)
class Score:
    """An endpoint's answer for one class.

    Attributes:
        label: Name of the class.
        score: Probability of the class.
    """

    label: str
    score: float


def endpoint_answers(url: str, labels: Sequence[str], *, token: str | None = None, seconds: float = SECONDS) -> Answers:
    """Query an endpoint that classifies texts or images (Inference Endpoints, or another with the same protocol).

    Redirects are not followed: neither the probes nor the token may reach another host.

    Args:
        url: Address of the endpoint.
        labels: Names of the classes, in the desired order.
        token: Token to send; by default none is sent.
        seconds: Total time limit of all answers.

    Returns:
        A function of the texts, for :func:`fingerprint.check`. It raises ``ConnectionError`` if the endpoint is
        unreachable, refuses, redirects, is too slow, or does not answer with probabilities, and ``ValueError`` if the
        endpoint has other classes.

    Raises:
        ValueError: The URL is invalid, a token is given for an address without https, or the time is not positive.
    """
    address = _address(url, token)
    if not 0 < seconds < math.inf:
        raise ValueError(f"the time limit must be a positive number of seconds; got {seconds}.")

    def answers(texts: Sequence[str]) -> tuple[np.ndarray, int]:
        try:
            found = asyncio.run(_asked(url, address, texts, len(labels), token, seconds))
        except TimeoutError:
            raise ConnectionError(
                f"{address} did not answer {len(texts)} texts within {seconds:g} seconds: raise --timeout; nothing "
                "was checked."
            ) from None
        except httpx.HTTPError as error:  # the error's message may contain the headers that were sent
            raise ConnectionError(
                f"could not reach {address} ({type(error).__name__}): check the address and the network; nothing was "
                "checked."
            ) from None
        rows = [_in_order(scores, labels, address) for scores in found]
        # An endpoint may round: take the number of decimals of its most precise answer.
        decimals = max(len(f"{score:.16f}".rstrip("0").partition(".")[2]) for row in rows for score in row)
        return np.array(rows), decimals

    return answers


def hub_token() -> str:
    """Return the token of ``hf auth login`` or ``HF_TOKEN``.

    Raises:
        ValueError: No token is set.
    """
    if not (token := get_token()):
        raise ValueError(f"no Hub token to send: {LOG_IN}.")
    return token


def _address(url: str, token: str | None) -> str:
    """Check the URL and return it without its query, which may contain a secret, for messages."""
    try:
        parts = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ValueError(f"not the URL of an endpoint: {printable(str(error))}.") from None
    address = f"{parts.scheme}://{parts.netloc.decode()}{parts.path}"
    if parts.scheme not in ("http", "https") or not parts.host:
        raise ValueError(f"an endpoint's URL must start with https:// or http:// and a host; got {address}.")
    if parts.userinfo:
        raise ValueError(f"{address}: the URL contains a user name or a password; remove both.")
    if token is not None and parts.scheme != "https":
        raise ValueError(f"{address}: a token is sent over https only; use an https:// URL, or send no token.")
    return address


async def _asked(
    url: str, address: str, texts: Sequence[str], many: int, token: str | None, seconds: float
) -> list[dict[str, float]]:
    headers = {"Accept-Encoding": "identity"}  # a small compressed answer could expand to a huge one
    headers |= {} if token is None else {"Authorization": f"Bearer {token}"}
    async with (
        asyncio.timeout(seconds),  # with a limit per read, a slow endpoint could keep us waiting without end
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
    """Parse the class probabilities of one text: ``[{"label", "score"}, ...]``, possibly inside another list."""
    try:
        raw = parse_json(content.decode("utf-8"))
        if isinstance(raw, list) and len(raw) == 1 and isinstance(raw[0], list):
            raw = raw[0]
        scores = checked(tuple[Score, ...], raw, "answer")
        found = {one.label: float(one.score) for one in scores}
        if not scores or len(found) < len(scores):
            raise ValueError("expected exactly one probability for each class.")
        if wrong := [score for score in found.values() if not 0 <= score <= 1]:
            raise ValueError(f"{wrong[0]} is not a probability.")
    except ValueError as error:
        raise ConnectionError(
            f"{address} did not return a classifier's probabilities: {printable(str(error))[:200]} Nothing was checked."
        ) from None
    return found


def _in_order(scores: dict[str, float], labels: Sequence[str], address: str) -> list[float]:
    if scores.keys() != {*labels}:
        given, wanted = (printable(", ".join(sorted(names))) for names in (scores, labels))
        raise ValueError(f"{address} has the classes {given}; the fingerprint has {wanted}.")
    return [scores[label] for label in labels]


def _refusal(status: int) -> str:
    if 300 <= status < 400:
        return f"redirects ({status}), and the probes are secret: pass the URL that it redirects to"
    if status in (401, 403):
        return f"refused the request ({status}): pass --send-token to send your Hub token, and check its permissions"
    if status == 429 or status >= 500:
        return f"is overloaded or failing ({status}): try again later"
    return f"refused the request ({status}): check the URL"
