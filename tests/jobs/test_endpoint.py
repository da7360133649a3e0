"""What an endpoint is told and what is believed of its answers, over real connections."""

import contextlib
import json
import socket
import subprocess
import threading
import time

import numpy as np
import pytest
from loopback_endpoint import LoopbackEndpoint, dripping, endless

from hf_selfdestruct.jobs import endpoint
from hf_selfdestruct.jobs.endpoint import endpoint_answers
from hf_selfdestruct.jobs.fingerprint import Fingerprint

LABELS = ("no", "yes")
GOOD = [{"label": "yes", "score": 0.75}, {"label": "no", "score": 0.25}]
TOKEN = "a-token-of-any-form"


@pytest.fixture
def certificate(tmp_path, monkeypatch):
    """A certificate that this process trusts."""
    files = tmp_path / "own.crt", tmp_path / "own.key"
    name = ["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1", "-days", "1", "-nodes"]
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", *name, "-out", files[0], "-keyout", files[1]]
    subprocess.run(make, check=True, capture_output=True)
    monkeypatch.setenv("SSL_CERT_FILE", str(files[0]))
    return files


def asked(server, **options):
    return endpoint_answers(server.url, LABELS, **{"seconds": 5.0, **options})(["secret", "probe"])


@pytest.mark.parametrize("answer", [GOOD, [GOOD]], ids=["flat", "nested"])
def test_answers_come_in_the_fingerprints_order(answer):
    with LoopbackEndpoint(lambda _: answer) as server:
        found, decimals = asked(server)
    np.testing.assert_array_equal(found, [[0.25, 0.75]] * 2)
    assert (decimals, [text for _, text in server.requests]) == (2, ["secret", "probe"])


def test_no_token_leaves_unasked(monkeypatch, tmp_path):
    """Neither the Hub's nor what ``.netrc`` says of the host."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password mine\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with LoopbackEndpoint(lambda _: GOOD) as server:
        asked(server)
    for headers, _ in server.requests:
        assert not {"authorization", "cookie", "proxy-authorization"} & {name.lower() for name in headers}
        assert TOKEN not in str(headers)


def test_a_token_goes_over_https_to_the_named_host(certificate):
    with LoopbackEndpoint(lambda _: GOOD, *certificate) as server:
        asked(server, token=TOKEN)
    assert {headers["Authorization"] for headers, _ in server.requests} == {f"Bearer {TOKEN}"}


def test_a_token_never_goes_over_plain_http():
    with LoopbackEndpoint(lambda _: GOOD) as server, pytest.raises(ValueError, match="over https only"):
        asked(server, token=TOKEN)
    assert server.requests == []


def test_a_stranger_with_an_unknown_certificate_is_told_nothing(certificate, monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE")
    with LoopbackEndpoint(lambda _: GOOD, *certificate) as server:
        with pytest.raises(ConnectionError, match="could not reach"):
            asked(server, token=TOKEN)
        assert server.requests == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_no_redirect_is_followed(status):
    with LoopbackEndpoint(lambda _: GOOD) as other, LoopbackEndpoint(lambda _: b"") as server:
        server.status, server.headers = status, {"Location": f"{other.url}/"}
        with pytest.raises(ConnectionError, match=f"redirects \\({status}\\)"):
            asked(server)
        assert other.requests == []
        assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("status", "why"),
    [(401, "--send-token"), (404, "check the URL"), (429, "try again later"), (503, "try again later")],
)
def test_a_refusal_says_what_to_do(status, why):
    with LoopbackEndpoint(lambda _: b"") as server:
        server.status = status
        with pytest.raises(ConnectionError, match=f"({status}).*{why}"):
            asked(server)


def row(**fields):
    return [{"label": "yes", "score": 0.5, **fields}, {"label": "no", "score": 0.5}]


MALFORMED = {
    "no JSON": b"<html>",
    "nothing": b"",
    "no text": b"\xff\xfe",
    "text": "yes",
    "number": 1,
    "object": {"error": "loading"},
    "empty": [],
    "two texts": [GOOD, GOOD],
    "nested twice": [[GOOD]],
    "deep": b"[" * 100_000,
    "no labels": [[0.5, 0.5]],
    "a name twice": b'[{"label": "yes", "score": 1, "score": 0}, {"label": "no", "score": 0}]',
    "a label twice": [*GOOD, GOOD[0]],
    "a score as text": row(score="0.5"),
    "a score as a boolean": row(score=True),
    "no score": [{"label": "yes"}],
    "not a number": b'[{"label": "yes", "score": NaN}, {"label": "no", "score": 0.5}]',
    "infinite": b'[{"label": "yes", "score": 1e999}, {"label": "no", "score": 0.5}]',
    "negative": row(score=-0.1),
    "above one": row(score=1.1),
    "huge": row(score=10**400),
    "a label that is a number": row(label=1),
    "more than is asked": row(**{"\x1b[31m": 1}),
    "control characters": row(score="\x1b]0;title\x07"),
    "other labels": row(label="\x1b[2Jmaybe\r\n"),
    "a label less": GOOD[:1],
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_answer_is_one_line(name):
    with LoopbackEndpoint(lambda _: MALFORMED[name]) as server:
        with pytest.raises((ConnectionError, ValueError)) as refused:
            asked(server)
        assert str(refused.value).startswith(server.url)
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 500


def test_an_answer_without_end_is_left():
    with LoopbackEndpoint(lambda _: endless()) as server, pytest.raises(ConnectionError, match="more than 1048576"):
        asked(server)


def test_a_compressed_answer_is_not_unpacked():
    import gzip

    with LoopbackEndpoint(lambda _: gzip.compress(b" " * 10**7)) as server:
        server.headers = {"Content-Encoding": "gzip"}
        with pytest.raises(ConnectionError, match="did not return a classifier's probabilities"):
            asked(server)
    assert server.requests[0][0]["Accept-Encoding"] == "identity"


def slow(_):
    time.sleep(0.3)
    return GOOD


@pytest.mark.parametrize("kind", ["silent", "dripping", "many slow answers"])
def test_all_answers_together_have_a_time(kind):
    started = time.monotonic()
    with LoopbackEndpoint((lambda _: dripping()) if kind == "dripping" else slow) as server:
        server.silent = kind == "silent"
        ask = endpoint_answers(server.url, LABELS, seconds=0.5)
        with pytest.raises(ConnectionError, match=r"did not answer 8 texts within 0\.5 seconds"):
            ask(["text"] * 8)
        assert time.monotonic() - started < 3


def test_headers_that_drip_have_a_time():
    """Each byte comes in time, and the last one never."""

    def drip():
        connection, _ = listening.accept()
        with connection, contextlib.suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
            while True:
                connection.sendall(b"x")
                time.sleep(0.05)

    started = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=drip, daemon=True).start()
        with pytest.raises(ConnectionError, match=r"within 0\.5 seconds"):
            endpoint_answers(f"http://127.0.0.1:{listening.getsockname()[1]}", LABELS, seconds=0.5)(["text"])
    assert time.monotonic() - started < 3


def test_an_endpoint_that_hangs_before_any_answer_has_a_time():
    """It takes the connection and says nothing, also not of TLS."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        for scheme in ("http", "https"):
            started = time.monotonic()
            with pytest.raises(ConnectionError, match=r"within 0\.2 seconds"):
                endpoint_answers(f"{scheme}://127.0.0.1:{port}", LABELS, seconds=0.2)(["text"])
            assert time.monotonic() - started < 3


def test_nobody_there_is_one_line():
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with pytest.raises(ConnectionError, match="could not reach"):
        endpoint_answers(f"http://127.0.0.1:{port}", LABELS)(["text"])


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("ftp://host/x", "must start with https"),
        ("http:///x", "must start with https"),
        ("https://me:hunter2@host/x", "contains a user name or a password"),
        ("http://[::1", "not the URL"),
        ("https://host\x1b[0m/", "."),
    ],
)
def test_a_wrong_address_is_one_line_without_its_password(url, why):
    with pytest.raises(ValueError, match=why) as refused:
        endpoint_answers(url, LABELS, token=TOKEN)
    assert "hunter2" not in str(refused.value)
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_the_time_is_a_positive_number(seconds):
    with pytest.raises(ValueError, match="positive number of seconds"):
        endpoint_answers("https://host", LABELS, seconds=seconds)


def test_a_secret_in_a_query_is_not_shown():
    with LoopbackEndpoint(lambda _: 1) as server, pytest.raises(ConnectionError) as refused:
        endpoint_answers(f"{server.url}/x?key=hunter2", LABELS)(["text"])
    assert "hunter2" not in str(refused.value)


@pytest.fixture
def fingerprint(tmp_path):
    path = tmp_path / "private.json"
    Fingerprint(("a", "b"), LABELS, ((0.25, 0.75),) * 2, "0" * 64, 0.01, 0.001, 0, 50).save(path)
    return path


def test_the_file_is_its_owners(fingerprint):
    assert fingerprint.stat().st_mode & 0o777 == 0o600
    fingerprint.chmod(0o644)
    Fingerprint.load(fingerprint).save(fingerprint)
    assert fingerprint.stat().st_mode & 0o777 == 0o600


def test_from_the_command_line(fingerprint, refused, monkeypatch, capsys, loudness):
    from hf_selfdestruct.cli.__main__ import main

    monkeypatch.setattr("hf_selfdestruct.jobs.endpoint.get_token", lambda: TOKEN)
    fine = [{"label": "yes", "score": 0.7502}, {"label": "no", "score": 0.2498}]
    with LoopbackEndpoint(lambda _: fine) as server:
        assert main(["fingerprint", "check", str(fingerprint), server.url]) == 0
        assert "the certified weights answer" in capsys.readouterr().out
        assert TOKEN not in json.dumps(server.requests)
        assert "over https only" in refused("fingerprint", "check", fingerprint, server.url, "--send-token")
        server.silent = True
        line = refused("fingerprint", "check", fingerprint, server.url, "--timeout", "0.2", code=1)
        assert "--timeout" in line
    assert "apply only to an endpoint URL; got model" in refused(
        "fingerprint", "check", fingerprint, "model", "--send-token"
    )
    monkeypatch.setattr("hf_selfdestruct.jobs.endpoint.get_token", lambda: None)
    assert "no Hub token to send" in refused("fingerprint", "check", fingerprint, "https://host", "--send-token")


def test_the_default_time_is_what_help_says():
    assert endpoint.SECONDS == 120
