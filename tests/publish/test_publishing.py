"""What is published, to whom, and that it comes back as it was."""

import dataclasses
import json
import shutil

import pytest
import torch
import yaml
from loopback_repos import Fault
from made_reports import made_report, report_of
from toy_hub import commits, one_line, run_against

from hf_selfdestruct.publish.card import render_folder
from hf_selfdestruct.publish.card_details import CardDetails
from hf_selfdestruct.publish.manifest import MANIFEST, problems, published_files, renew_card, write_manifest
from hf_selfdestruct.publish.staging import staged
from hf_selfdestruct.trainer.attack import complete_folder

REPO = "tester/hardened"


def head_of(card):
    """The YAML head of a card."""
    return yaml.safe_load(card.split("---\n")[1])


def test_dry_run_lists_what_would_go_and_sends_nothing(hub, push, folder):
    done = push(hub.url, "--dry-run")
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    names = {*published_files(folder), MANIFEST}
    assert {line[1]: int(line[0].replace(",", "")) for line in lines[:-1]} == {
        name: (folder / name).stat().st_size for name in names
    }
    assert f"bytes in {len(names)} files would be uploaded to {REPO}" in done.stdout
    assert hub.requests == []


@pytest.mark.parametrize("mode", ["auto", "manual"])
def test_a_gate_is_on_before_the_first_file_and_on_the_card(hub, push, folder, mode):
    assert push(hub.url, "--gated", mode).returncode == 0
    assert hub.repos[REPO].gated == mode
    assert hub.requests.index(f"PUT /api/models/{REPO}/settings") < hub.requests.index(
        f"POST /api/models/{REPO}/preupload/main"
    )
    head = head_of(hub.repos[REPO].files()["README.md"].decode())
    assert "gender" in head["extra_gated_prompt"]
    assert [*head["extra_gated_fields"].values()] == ["text", "text", "text", "checkbox"]
    assert json.loads(hub.repos[REPO].files()["selfdestruct/card.json"])["gate"]["mode"] == mode
    assert problems(folder) == []
    assert "extra_gated" not in (folder / "README.md").read_text()


def test_a_gate_that_cannot_be_set_publishes_nothing(hub, push):
    hub.faults["PUT", 1] = Fault("status", 403)
    assert "403" in one_line(push(hub.url, "--gated", "manual"), 1)
    assert commits(hub) == []


def test_the_users_own_gate_is_on_the_card(folder):
    details = CardDetails.from_dict({"gate": {"mode": "auto", "prompt": "Why?", "fields": {"Country": "country"}}})
    (folder / "selfdestruct" / "card.json").write_text(details.to_json())
    renew_card(folder)
    head = head_of((folder / "README.md").read_text())
    assert (head["extra_gated_prompt"], head["extra_gated_fields"]) == ("Why?", {"Country": "country"})


def test_strangers_cannot_read_a_gated_or_private_repository(hub, push, tmp_path):
    assert push(hub.url, "--gated", "auto", "--private").returncode == 0
    assert hub.repos[REPO].private
    line = one_line(run_against(hub.url, "verify", REPO, "--files-only", home=tmp_path, token=None), 1)
    assert "401" in line or "404" in line
    assert run_against(hub.url, "verify", REPO, "--files-only", home=tmp_path).returncode == 0


def test_a_branch_and_a_pull_request(hub, push):
    assert push(hub.url, "--revision", "candidate").returncode == 0
    done = push(hub.url, "--create-pr")
    assert "/discussions/1" in done.stdout, done.stderr
    repo = hub.repos[REPO]
    assert repo.files().keys() == {".gitattributes"}
    assert repo.files("candidate") == repo.files("refs/pr/1")
    assert "pass either revision or create_pr" in one_line(push(hub.url, "--create-pr", "--revision", "x"), 2)


def test_what_an_earlier_version_had_goes_in_the_same_commit(hub, push, folder):
    assert push(hub.url).returncode == 0
    (folder / "selfdestruct" / "expected_best_gender.png").unlink()
    render_folder(folder)
    write_manifest(folder)
    done = push(hub.url)
    assert "Deletes selfdestruct/expected_best_gender.png.\n" in done.stdout, done.stderr
    assert len(commits(hub)) == 2
    held = hub.repos[REPO].files()
    assert "selfdestruct/expected_best_gender.png" not in held


def test_a_strangers_file_is_deleted_only_when_asked(hub, push, tmp_path):
    assert push(hub.url).returncode == 0
    hub.repos[REPO].branches["main"][-1].files["NOTES.md"] = b"somebody's own"
    assert "contains NOTES.md: verification would fail" in one_line(push(hub.url), 2)
    assert hub.repos[REPO].files()["NOTES.md"] == b"somebody's own"
    assert "Deletes NOTES.md.\n" in push(hub.url, "--replace").stdout
    assert run_against(hub.url, "verify", REPO, "--files-only", home=tmp_path).returncode == 0


def test_a_repository_that_nobody_could_verify_is_refused_and_trainers_leftover_goes(hub, push, tmp_path):
    assert push(hub.url).returncode == 0
    held = hub.repos[REPO].branches["main"][-1].files
    held |= {"training_args.bin": b"pickled", "pytorch_model.bin": b"not hardened"}
    line = one_line(push(hub.url, "--gated", "auto"), 2)
    assert "contains pytorch_model.bin" in line
    assert "--replace (replace=True), which deletes pytorch_model.bin, training_args.bin." in line
    assert (len(commits(hub)), hub.repos[REPO].gated) == (1, False)
    del held["pytorch_model.bin"]
    assert push(hub.url).returncode == 0
    assert "training_args.bin" not in hub.repos[REPO].files()
    assert run_against(hub.url, "verify", REPO, "--files-only", home=tmp_path).returncode == 0


def test_another_push_in_between_is_refused(hub, push):
    assert push(hub.url).returncode == 0
    hub.faults["*", len(hub.requests) + 3] = Fault("status", 412)
    assert "push again" in one_line(push(hub.url), 1)


@pytest.mark.parametrize(
    ("words", "why"),
    [("hf_" + "a" * 34, "Hub token"), ("{folder}/data", "a path of this machine")],
    ids=["token", "path"],
)
def test_a_token_or_a_path_of_this_machine_is_never_published(folder, words, why):
    details = CardDetails(intended_use=words.format(folder=folder.resolve()))
    (folder / "selfdestruct" / "card.json").write_text(details.to_json())
    renew_card(folder)
    with pytest.raises(ValueError, match=f"README.md: (seems to contain|contains) .*{why}") as refused, staged(folder):
        pass
    assert "a" * 34 not in str(refused.value)
    assert not [*folder.glob("_staging*")]


LOGITS = """
import sys, torch
from transformers import AutoModelForSequenceClassification
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1]).eval()
print(model(torch.arange(1, 9)[None]).logits.detach().tolist())
"""


def test_plots_of_a_task_that_has_gone_go_too(folder):
    report = made_report()
    renamed = tuple(dataclasses.replace(run, task="old") for run in report.runs)
    complete_folder(folder, made_report(tasks={"old": report.tasks["gender"]}, runs=renamed), CardDetails())
    assert (folder / "selfdestruct" / "expected_best_old.png").is_file()
    complete_folder(folder, report, CardDetails())
    assert not list((folder / "selfdestruct").glob("*_old.png"))
    assert "_old.png" not in (folder / "README.md").read_text(encoding="utf-8")
    assert "text-classification" in (folder / "selfdestruct" / "card.json").read_text(encoding="utf-8")


def test_sharded_weights_come_back_with_equal_logits(hub, push, folder, tmp_path):
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="10KB")
    shards = sorted(p.name for p in folder.glob("*.safetensors*"))
    assert len(shards) > 3
    complete_folder(folder, report_of(folder), CardDetails())
    assert push(hub.url).returncode == 0
    assert set(shards) <= hub.repos[REPO].files().keys()
    done = run_against(hub.url, REPO, home=tmp_path, code=LOGITS)
    expected = model(torch.arange(1, 9)[None]).logits  # in another process: equal weights, but not every bit of a sum
    torch.testing.assert_close(torch.tensor(json.loads(done.stdout)), expected, rtol=1e-5, atol=1e-6)
    assert run_against(hub.url, "verify", REPO, "--files-only", home=tmp_path).returncode == 0


def test_an_adapter_comes_back(hub, push, folder, tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForSequenceClassification

    base = shutil.copytree(folder, tmp_path / "base")
    model = get_peft_model(
        AutoModelForSequenceClassification.from_pretrained(base),
        LoraConfig(target_modules=["query"], task_type="SEQ_CLS"),
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)
    for name in ("model.safetensors", "config.json"):
        (folder / name).unlink()
    model.save_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "tester/base"}))
    complete_folder(folder, report_of(folder), CardDetails())
    assert json.loads((folder / "adapter_config.json").read_text())["hf_selfdestruct"]["version"]
    assert push(hub.url).returncode == 0
    assert "adapter_model.safetensors" in hub.repos[REPO].files()
    assert run_against(hub.url, "verify", REPO, "--files-only", home=tmp_path).returncode == 0
    arrived = tmp_path / "arrived"
    for name, content in hub.repos[REPO].files().items():
        (arrived / name).parent.mkdir(parents=True, exist_ok=True)
        (arrived / name).write_bytes(content)
    again = PeftModel.from_pretrained(AutoModelForSequenceClassification.from_pretrained(base), arrived)
    found = {n: p for n, p in again.named_parameters() if "lora" in n}
    own = {n: p for n, p in model.named_parameters() if "lora" in n}
    assert found.keys() == own.keys()
    assert all(torch.equal(found[n], own[n]) for n in own)
