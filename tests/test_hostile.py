"""Hostile folders and repositories are refused; nothing runs, nothing is written elsewhere."""

import json
import struct

import pytest
from made_reports import made_report
from toy_hub import one_line, run_against
from toy_project import run_cli

from hf_selfdestruct.publish.card import render
from hf_selfdestruct.publish.card_details import CardDetails
from hf_selfdestruct.publish.hub import planned
from hf_selfdestruct.publish.manifest import MANIFEST, problems, published_files, renew_card, write_manifest
from hf_selfdestruct.report.report import AttackReport


def everything(root):
    """Every file below a folder, with its content."""
    return {path: path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def edited(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def lying_header(folder):
    """A tensor that says it is a thousand times as large as the file."""
    path = folder / "model.safetensors"
    content = path.read_bytes()
    size = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + size])
    name = next(n for n in header if n != "__metadata__")
    start, end = header[name]["data_offsets"]
    header[name]["data_offsets"] = [start, end * 1000]
    raw = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw)) + raw + content[8 + size :])


def huge_header(folder):
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", 2**62) + b"{}")


def million_runs(folder):
    path = folder / "selfdestruct" / "report.json"
    path.write_text('{"runs": [' + ",".join(["0"] * 1_000_000) + "]}")


def remote_code(folder):
    edited(folder / "config.json", lambda c: c.update(auto_map={"AutoModel": "model.Evil"}))


def outside(name):
    return lambda folder: edited(folder / MANIFEST, lambda m: m["files"].update({name: {"sha256": "0", "size": 0}}))


def nested(inner, name):
    def put(folder):
        (folder / inner).mkdir(parents=True, exist_ok=True)
        (folder / inner / name).write_text("[]")

    return put


# What is done to a folder, whether its manifest is written anew as by an attacker, and what is said of it.
ATTACKS = {
    "path outside": (outside("../../x"), False, "'../../x', a path outside"),
    "absolute path": (outside("/etc/passwd"), False, "'/etc/passwd', a path outside"),
    "windows path": (outside("..\\x"), False, "a path outside"),
    "no object": (lambda f: (f / MANIFEST).write_text("[]"), False, "not a manifest"),
    "nested": (lambda f: (f / MANIFEST).write_text("[" * 100_000), False, "not a manifest"),
    "huge manifest": (lambda f: (f / MANIFEST).write_text(" " * 20_000_000), False, "the limit is"),
    "no text": (lambda f: (f / MANIFEST).write_bytes(b"\xff\xfe"), False, "UTF-8"),
    "million runs": (million_runs, False, "report.json"),
    "lying header": (lying_header, True, "model.safetensors: not safetensors"),
    "huge header": (huge_header, True, "model.safetensors: not safetensors"),
    "remote code": (remote_code, True, "config.json: asks for code"),
    "tokenizer's code": (
        lambda f: (f / "tokenizer_config.json").write_text('{"auto_map": {"AutoTokenizer": ["x.Evil", null]}}'),
        True,
        "tokenizer_config.json: asks for code",
    ),
    "code behind blanks": (
        lambda f: (f / "processor_config.json").write_text('{"auto_map": {"AutoProcessor": "x.Evil"}}' + " " * 2**24),
        True,
        "processor_config.json: cannot check it for requests to load code: file has 16777",
    ),
    "no JSON": (lambda f: (f / "generation_config.json").write_text("{"), True, "generation_config.json: cannot check"),
    "another loader": (lambda f: (f / "modules.json").write_text("[]"), False, "modules.json: can run code"),
    "a pickle": (
        lambda f: (f / "pytorch_model.bin").write_bytes(b"cos\nsystem\n"),
        True,
        "pytorch_model.bin: can run code",
    ),
    "a module": (lambda f: (f / "modeling.py").write_text("1/0"), True, "modeling.py: can run code"),
    "a module that looks private": (lambda f: (f / "_x.py").write_text("1/0"), True, "_x.py: can run code"),
    "a pickle as a checkpoint": (lambda f: (f / "checkpoint-1.pt").write_bytes(b"c"), True, "checkpoint-1.pt: can run"),
    "a module in a private folder": (nested("_x/deep", "y.py"), True, "_x/deep/y.py: can run code"),
    "weights in a checkpoint": (nested("checkpoint-9", "pytorch_model.bin"), True, "pytorch_model.bin: can run code"),
    "a module further down": (nested("sub/deep", "x.py"), True, "sub/deep/x.py: can run code"),
    "another loader further down": (nested("1_Pooling", "modules.json"), True, "1_Pooling/modules.json: can run code"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_a_hostile_folder_is_refused(folder, tmp_path, name):
    change, renews, why = ATTACKS[name]
    change(folder)
    if renews:
        write_manifest(folder)
    before = everything(tmp_path)
    try:
        found = problems(folder)
    except ValueError as error:
        found = [str(error)]
    assert any(why in line for line in found), found
    assert all(len(line.splitlines()) == 1 for line in found)
    assert everything(tmp_path) == before


@pytest.mark.parametrize("left", ["checkpoint-20", "_undefended"])
def test_what_training_leaves_beside_is_no_part_of_the_model(folder, left):
    for name in ("optimizer.pt", "rng_state_1.pth", "training_args.bin"):
        nested(left, name)(folder)
    (folder / "sub.py").mkdir()  # a folder, whatever its name
    assert not problems(folder)


@pytest.mark.parametrize("command", ["verify", "push", "card"])
def test_from_the_command_line_it_is_one_line(folder, tmp_path, command):
    outside("../../x")(folder)
    words = [command, folder, *(["a/b"] if command == "push" else [])]
    assert "a path outside" in one_line(run_cli(*words, home=tmp_path), 2)


@pytest.fixture
def victim(tmp_path):
    """A folder of somebody else's, with a file that nobody should read or change."""
    folder = tmp_path / "victim"
    folder.mkdir()
    (folder / "id_rsa").write_text("secret")
    return folder


def test_a_linked_staging_folder_publishes_and_changes_nothing_elsewhere(folder, victim):
    names = {*published_files(folder), MANIFEST}
    (folder / "_staging-1-x").symlink_to(victim)
    assert planned(folder).keys() == names
    assert everything(victim) == {victim / "id_rsa": b"secret"}
    assert [path.name for path in folder.glob("_staging*")] == ["_staging-1-x"]


@pytest.mark.parametrize("name", ["README.md", "README.md.part", f"{MANIFEST}.part"])
def test_no_linked_file_is_written_through(folder, victim, name):
    content = (folder / name).read_bytes() if (folder / name).exists() else b"secret"
    (folder / name).unlink(missing_ok=True)
    (victim / "id_rsa").write_bytes(content)
    (folder / name).symlink_to(victim / "id_rsa")
    (folder / "selfdestruct" / "card.json").write_text(CardDetails(intended_use="another").to_json())
    renew_card(folder)
    assert "another" in (folder / "README.md").read_text()
    assert (victim / "id_rsa").read_bytes() == content


@pytest.mark.parametrize("name", ["selfdestruct", MANIFEST])
def test_linked_evidence_is_refused(folder, victim, name):
    (folder / name).rename(victim / "theirs")
    (folder / name).symlink_to(victim / "theirs")
    before = everything(victim)
    with pytest.raises(ValueError, match="is a link to another folder"):
        renew_card(folder)
    assert everything(victim) == before


def test_a_million_entries_are_refused_before_they_are_read():
    with pytest.raises(ValueError, match="more than 500000 entries"):
        AttackReport.from_json('{"tasks": {' + ",".join(f'"t{i}": {{}}' for i in range(600_000)) + "}}")


@pytest.mark.parametrize(("name", "why"), [("pytorch_model.bin", "can run code"), ("evil.py", "can run code")])
def test_a_hostile_repository_is_refused_before_anything_is_fetched(hub, push, tmp_path, name, why):
    assert push(hub.url).returncode == 0
    hub.repos["tester/hardened"].files()[name] = b"cos\nsystem\n"
    count = len(hub.requests)
    assert why in one_line(run_against(hub.url, "verify", "tester/hardened", home=tmp_path), 2)
    assert not [r for r in hub.requests[count:] if "resolve" in r]


def test_a_repository_with_a_path_outside_writes_nothing_there(hub, push, tmp_path):
    assert push(hub.url).returncode == 0
    hub.repos["tester/hardened"].files()["../../../../escaped.safetensors"] = b"x"
    run_against(hub.url, "verify", "tester/hardened", home=tmp_path)
    assert not [path for path in tmp_path.parent.parent.rglob("escaped*")]


SCRIPT = "<script>alert(1)</script>{{ 7 * 7 }}{% raw %}\n# heading | `x` [a](javascript:b)"


def test_words_of_strangers_stay_words_on_the_card():
    from dataclasses import replace

    report = replace(made_report(), checks=(SCRIPT,), recipe={SCRIPT: SCRIPT})
    body = render(report, CardDetails(title=SCRIPT, intended_use=SCRIPT)).split("---\n", 2)[2]
    assert "{{ 7 * 7 }}" in body
    for markup in ("<script", "`x`", "[a](", "\n# heading"):
        assert markup not in body
