"""The copy that is sent: of one push alone, whole, and as it was verified."""

import shutil
import subprocess
import sys

import pytest

from hf_selfdestruct.publish.hub import _additions
from hf_selfdestruct.publish.manifest import MANIFEST, problems, published_files
from hf_selfdestruct.publish.staging import plan_of, staged, staged_files


def test_a_staged_copy_is_the_folder_as_published_and_goes_away(folder):
    with staged(folder) as copy:
        assert set(staged_files(copy)) == {*published_files(folder), MANIFEST}
        assert problems(copy) == []
        assert {name: size for name, (size, _) in plan_of(copy).items()} == staged_files(copy)
    assert not copy.exists()


def test_copies_of_one_folder_do_not_disturb_each_other(folder):
    with staged(folder) as one:
        held = staged_files(one)
        with staged(folder) as two:
            assert one != two
        assert (staged_files(one), problems(one)) == (held, [])
    assert not [*folder.glob("_staging*")]


def test_what_killed_pushes_left_goes_and_what_is_in_use_stays(folder):
    left, used = folder / "_staging-1-killed", folder / "_staging-2-used"
    for place in (left, used):
        (place / "copy").mkdir(parents=True)
    holder = (
        "import sys; from hf_selfdestruct.files import locked\nwith locked(sys.argv[1]): print(flush=True); input()"
    )
    words = [sys.executable, "-c", holder, used]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        with staged(folder):
            pass
        process.communicate(b"\n")
    assert (left.exists(), used.exists()) == (False, True)


def change(name, content):
    def made(copy):
        (copy / name).write_bytes(content) if content is not None else (copy / name).unlink()

    return made


@pytest.mark.parametrize(
    "disturb",
    [
        change("config.json", b"{}"),
        change("model.safetensors", None),
        change("more.txt", b"more"),
        change(MANIFEST, None),
        change(MANIFEST, b'{"files": {}}'),
        change(MANIFEST, b"{}"),
        shutil.rmtree,
    ],
    ids=["changed", "gone", "more", "no manifest", "empty manifest", "no list", "nothing"],
)
def test_only_what_was_verified_is_sent(folder, disturb):
    with staged(folder) as copy:
        assert {one.path_in_repo for one in _additions(copy)} == staged_files(copy).keys()
        disturb(copy)
        with pytest.raises(
            ValueError, match=r"changed after verification|was published|no such file|expected an object"
        ):
            _additions(copy)
