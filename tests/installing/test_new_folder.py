"""Installing into a new folder, which shares nothing with its source that an edit could change."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from skillpack.errors import CheckpointError, WrongBaseError
from skillpack.installing import install, remove, status
from skillpack.installing.cloning import clone
from tests.installing import models
from tests.installing.models import digests, model_files, tensors_of, whole

FIRST, SECOND = models.SHARDS


def test_the_new_folder_is_managed_and_the_source_untouched(shelf, tmp_path):
    before = whole(shelf.base)
    out = tmp_path / "deep" / "out"
    report = install([shelf.skills["math"]], shelf.base, output=out)
    assert report.folder == out
    assert tensors_of(out) == digests(shelf.tuned["math"])
    assert not status(out, verify=True).differences
    assert {path.name for path in out.parent.iterdir()} == {"out"}
    install([shelf.skills["chat"]], out)
    remove(["math"], out)
    assert tensors_of(out) == digests(shelf.tuned["chat"])
    remove(None, out)
    assert whole(out) == whole(shelf.base) == before


def test_in_place_and_in_a_new_folder_are_the_same_bytes(shelf, model, tmp_path):
    skills = [shelf.skills["code"], shelf.skills["prose"]._replace(weight=0.5)]
    install(skills, model)
    install(skills, shelf.base, output=tmp_path / "out")
    assert model_files(tmp_path / "out") == model_files(model)


def test_a_managed_source_brings_its_skills_along(shelf, model, tmp_path):
    install([shelf.skills["math"]], model)
    before = whole(model)
    install([shelf.skills["chat"]], model, output=tmp_path / "out")
    assert whole(model) == before
    assert {record.name for record in status(tmp_path / "out").skills} == {"math", "chat"}
    remove(["chat"], tmp_path / "out")
    assert model_files(tmp_path / "out") == model_files(model)
    remove(None, tmp_path / "out")
    assert whole(tmp_path / "out") == whole(shelf.base)


def test_an_empty_folder_is_taken_and_git_is_not_copied(shelf, model, tmp_path):
    (model / ".git").mkdir()
    (model / ".git" / "HEAD").write_text("ref")
    (model / "runs").mkdir()
    (model / "runs" / "log.txt").write_text("fine")
    (tmp_path / "out").mkdir()
    install([shelf.skills["math"]], model, output=tmp_path / "out")
    assert not (tmp_path / "out" / ".git").exists()
    assert (tmp_path / "out" / "runs" / "log.txt").read_text() == "fine"


def test_a_snapshot_of_the_hub_cache(shelf, tmp_path):
    snapshot = tmp_path / "models--org--tiny" / "snapshots" / "0123"
    blobs = tmp_path / "models--org--tiny" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(shelf.base.iterdir())):
        shutil.copy(path, blobs / str(number))
        (snapshot / path.name).symlink_to(f"../../blobs/{number}")
    before = whole(blobs)
    install([shelf.skills["code"]], snapshot, output=tmp_path / "out")
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))
    remove(None, tmp_path / "out")
    assert model_files(tmp_path / "out") == model_files(shelf.base)
    assert whole(blobs) == before


def test_one_weight_file(shelf, tmp_path):
    models.write_weights(tmp_path / "weights.safetensors", shelf.tensors)
    (tmp_path / "config.json").write_text("not of this model")
    install([shelf.skills["math"]], tmp_path / "weights.safetensors", output=tmp_path / "out")
    assert tensors_of(tmp_path / "out" / "weights.safetensors") == digests(shelf.tuned["math"])
    remove(None, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"weights.safetensors"}


def edit_everything(folder):
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("r+b") as file:
                file.write(b"edited")


def test_an_edit_in_the_new_folder_never_reaches_the_source(shelf, model, tmp_path):
    before = whole(model)
    install([shelf.skills["chat"]], model, output=tmp_path / "out")
    for path in (tmp_path / "out").rglob("*"):
        assert not path.is_file() or path.stat().st_nlink == 1 or "skills" in path.parts
    shutil.rmtree(tmp_path / "out" / ".skillpack/.cache/huggingface/skills")
    edit_everything(tmp_path / "out")
    assert whole(model) == before


def test_hard_links_are_made_on_request_and_for_weights_alone(shelf, model, tmp_path):
    install([shelf.skills["chat"]], model, output=tmp_path / "out", hard_links=True)
    out = tmp_path / "out"
    shared = {path.name for path in model.iterdir() if path.samefile(out / path.name)}
    assert shared == {FIRST}
    kept = out / ".skillpack/.cache/huggingface/base"
    assert (kept / SECOND).samefile(model / SECOND)
    assert not (kept / "tokenizer.json").samefile(model / "tokenizer.json")
    before = {path: (model / path).read_bytes() for path in model_files(model)}
    remove(None, out)
    assert {path: (model / path).read_bytes() for path in before} == before


def test_a_failure_leaves_nothing(shelf, tmp_path):
    before = whole(tmp_path)
    with pytest.raises(CheckpointError, match="no such file or folder"):
        install([shelf.skills["math"]], tmp_path / "nothing", output=tmp_path / "out")
    other = models.write_model(tmp_path / "other", models.base_tensors(seed=5))
    before = whole(tmp_path)
    with pytest.raises(WrongBaseError, match="another base"):
        install([shelf.skills["math"]], other, output=tmp_path / "out")
    assert whole(tmp_path) == before
    install([shelf.skills["math"]], shelf.base, output=tmp_path / "out", dry_run=True)
    assert whole(tmp_path) == before


def test_what_a_killed_command_left_is_cleared(shelf, tmp_path):
    left = tmp_path / ".out.skillpack-tmp"
    (left / "1_Pooling").mkdir(parents=True)
    (left / "1_Pooling" / "config.json").write_text("old")
    install([shelf.skills["math"]], shelf.base, output=tmp_path / "out")
    assert not left.exists()
    assert not (tmp_path / "out" / "1_Pooling").exists()


def test_a_clone_follows_links_and_keeps_permissions(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "file").chmod(0o440)
    (tmp_path / "link").symlink_to("file")
    assert clone(tmp_path / "link", tmp_path / "copy") in {"copy", "reflink"}
    assert (tmp_path / "copy").read_bytes() == b"content"
    assert (tmp_path / "copy").stat().st_mode & 0o777 == 0o640
    assert clone(tmp_path / "link", tmp_path / "hard", link=True) == "link"
    assert (tmp_path / "hard").samefile(tmp_path / "file")


def test_reflinks_where_the_file_system_has_them(tmp_path):
    if shutil.which("mkfs.xfs") is None and shutil.which("mkfs.btrfs") is None:
        pytest.skip("needs mkfs.xfs or mkfs.btrfs")
    image, mount = tmp_path / "image", tmp_path / "mount"
    mount.mkdir()
    with image.open("wb") as file:
        file.truncate(400 << 20)
    maker = ["mkfs.xfs", "-q"] if shutil.which("mkfs.xfs") else ["mkfs.btrfs", "-q"]
    subprocess.run([*maker, str(image)], check=True, capture_output=True)
    if subprocess.run(["mount", "-o", "loop", str(image), str(mount)], check=False, capture_output=True).returncode:
        pytest.skip("loop mounts are not allowed here")
    try:
        (mount / "file").write_bytes(bytes(1 << 20))
        assert clone(mount / "file", mount / "copy") == "reflink"
        (mount / "copy").write_bytes(b"x")
        assert (mount / "file").read_bytes() == bytes(1 << 20)
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=True)
