"""Signatures of one's own key: kept by what is published, broken by any change."""

import json
import subprocess
import sys

import pytest
from toy_hub import one_line, run_against
from toy_project import run_cli

from hf_selfdestruct.jobs.verification import verify
from hf_selfdestruct.publish.manifest import MANIFEST, problems, write_manifest
from hf_selfdestruct.publish.signing import sign, signature_problems
from hf_selfdestruct.publish.staging import staged


def key_pair(folder, name, *, curve="prime256v1"):
    """A private and a public key, as openssl writes them."""
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    make = ["openssl", "ecparam", "-name", curve, "-genkey", "-noout"]
    subprocess.run([*make, "-out", private], check=True)
    subprocess.run(["openssl", "ec", "-in", private, "-pubout", "-out", public], check=True, capture_output=True)
    return private, public


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return key_pair(tmp_path_factory.mktemp("keys"), "own")


@pytest.fixture
def signed(folder, keys, tmp_path):
    """What a signed push would send."""
    with staged(folder, key=keys[0]) as copy:
        return copy.rename(tmp_path / "signed")


def test_a_signed_copy_is_the_key_owners(signed, keys):
    assert problems(signed) == []
    assert signature_problems(signed, keys[1]) == []


def test_others_tools_verify_it(signed, keys):
    words = ["verify", "key", signed, "--public_key", keys[1], "--signature", signed / "model.sig"]
    done = subprocess.run([sys.executable, "-m", "model_signing", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout


def test_another_key_is_told_apart(signed, tmp_path):
    assert signature_problems(signed, key_pair(tmp_path, "other")[1])[0].startswith(
        "model.sig: does not match this key"
    )


def test_a_forger_with_a_new_manifest_is_told_apart(signed, keys):
    """Hashes alone say that all agrees."""
    report = signed / "selfdestruct" / "report.json"
    raw = json.loads(report.read_text())
    report.write_text(json.dumps({**raw, "checks": ["none"]}, indent=1, sort_keys=True) + "\n")
    from hf_selfdestruct.files import file_hash
    from hf_selfdestruct.publish.card import render_folder
    from hf_selfdestruct.publish.manifest import stamp_config

    stamp = json.loads((signed / "config.json").read_text())["hf_selfdestruct"]
    stamp_config(signed, {**stamp, "report_sha256": file_hash(report)})
    render_folder(signed)
    write_manifest(signed)
    assert problems(signed) == []
    assert signature_problems(signed, keys[1])


def signed_by_others_tool(folder, key, *, ignored=(), into=None):
    """A signature as ``model_signing`` makes it of a folder, some paths left out."""
    from model_signing import hashing, signing

    left_out = hashing.Config().set_ignored_paths(paths=[*ignored, "model.sig"])
    config = signing.Config().use_elliptic_key_signer(private_key=key).set_hashing_config(left_out)
    config.sign(folder, (into or folder) / "model.sig")


SIGNED_OTHERWISE = {
    "another folder": lambda f, other, key: signed_by_others_tool(other, key, into=f),
    "an empty folder": lambda f, other, key: signed_by_others_tool(f, key, ignored=["selfdestruct", *TOP]),
    "all but the weights": lambda f, other, key: signed_by_others_tool(f, key, ignored=["model.safetensors"]),
    "all but the manifest": lambda f, other, key: signed_by_others_tool(f, key, ignored=[MANIFEST]),
    "one file more": lambda f, other, key: (
        (f / "more").write_text("x"),
        signed_by_others_tool(f, key),
        (f / "more").unlink(),
    ),
    "one file more, which is there": lambda f, other, key: (
        (f / ".gitattributes").write_text("x"),
        (f / ".cache" / "huggingface").mkdir(parents=True),
        (f / ".cache" / "huggingface" / "x").write_text("x"),
        signed_by_others_tool(f, key),
    ),
}
TOP = ("README.md", "config.json", "model.safetensors", "tokenizer.json")


@pytest.mark.parametrize("how", SIGNED_OTHERWISE)
def test_a_signature_covers_exactly_the_files_of_the_manifest(signed, keys, tmp_path, how):
    other = tmp_path / "other"
    other.mkdir()
    (other / "x").write_text("x")
    SIGNED_OTHERWISE[how](signed, other, keys[0])
    assert problems(signed, alone=True) == []
    assert [line.partition(" (")[0] for line in signature_problems(signed, keys[1])] == [
        "model.sig: does not match this key and these files"
    ]


def test_others_signature_of_exactly_these_files_is_one(signed, keys):
    signed_by_others_tool(signed, keys[0])
    assert signature_problems(signed, keys[1]) == []


@pytest.mark.parametrize(
    "name", ["chat_template.jinja", "checkpoint-1/model.safetensors", "_base/config.json", "x.pkl"]
)
def test_nothing_else_lies_beside_a_signed_folder(signed, keys, name):
    assert verify(str(signed), public_key=keys[1], files_only=True).problems == ()
    (signed / name).parent.mkdir(exist_ok=True)
    (signed / name).write_bytes(b"x")
    (line,) = verify(str(signed), public_key=keys[1], files_only=True).problems
    assert line.startswith(f"{name}: ")


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"\xff\xfe", b'{"mediaType": "x"}'])
def test_a_broken_signature_is_a_problem_and_no_crash(signed, keys, content):
    (signed / "model.sig").write_bytes(content)
    assert signature_problems(signed, keys[1])[0].startswith("model.sig: ")


def test_an_unsigned_folder_is_a_problem(folder, keys):
    assert signature_problems(folder, keys[1]) == ["model.sig: missing: the folder is not signed"]


def test_wrong_keys_are_refused(folder, keys, tmp_path):
    rsa = tmp_path / "rsa.pem"
    subprocess.run(["openssl", "genrsa", "-out", rsa, "2048"], check=True, capture_output=True)
    for key in (rsa, keys[1], key_pair(tmp_path, "bitcoin", curve="secp256k1")[0]):
        with (
            pytest.raises(ValueError, match="expected an unencrypted elliptic-curve private key"),
            staged(folder, key=key),
        ):
            pass
    with pytest.raises(ValueError, match="no key at"):
        sign(folder, tmp_path / "none.pem")


def test_from_the_command_line(hub, push, folder, keys, tmp_path):
    private, public = keys
    assert push(hub.url, "--sign", private).returncode == 0
    assert "model.sig" in hub.repos["tester/hardened"].files()
    unchecked = run_against(hub.url, "verify", "tester/hardened", "--files-only", home=tmp_path)
    assert "model.sig was not checked: pass --public-key" in unchecked.stdout
    done = run_against(hub.url, "verify", "tester/hardened", "--files-only", "--public-key", public, home=tmp_path)
    assert (done.returncode, "the signature matches this key" in done.stdout) == (0, True), done.stderr
    hub.repos["tester/hardened"].files()["model.sig"] = b"{}"
    assert not (folder / "model.sig").exists()
    assert "no key at" in one_line(run_cli("push", folder, "a/b", "--sign", "nowhere", "--dry-run", home=tmp_path), 2)
