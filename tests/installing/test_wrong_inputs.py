"""Wrong input: a message, an exit code, and nothing changed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from skillpack.errors import (
    BusyFolderError,
    CheckpointError,
    ConflictError,
    CorruptStoreError,
    DamagedCheckpointError,
    DamagedSkillError,
    ModifiedFolderError,
    NoSpaceError,
    NotFoundError,
    ReadOnlyError,
    SkillPackError,
    UsageError,
    WrongBaseError,
)
from skillpack.installing import install, remove, status
from skillpack.packing import pack
from skillpack.skill import open_skill
from skillpack.tensors import Tensor
from skillpack_store import Repository, disk
from tests.installing import models
from tests.installing.models import digests, tensors_of, whole

FIRST, SECOND = models.SHARDS
STATE = ".skillpack/.cache/huggingface"


@pytest.fixture
def refused(shelf, model):
    """Run an action on the model; it must fail with this error and leave the folder as it is."""

    def refused(kind, exit_code, action, match):
        before = whole(model)
        with pytest.raises(kind, match=match) as caught:
            action()
        assert caught.value.exit_code == exit_code
        assert caught.value.hint
        assert whole(model) == before
        return caught.value

    return refused


def rewrite(model, tensors):
    shutil.rmtree(model)
    models.write_model(model, tensors)


def test_another_base(shelf, model, refused):
    rewrite(model, models.base_tensors(seed=9))
    error = refused(
        WrongBaseError,
        12,
        lambda: install([shelf.skills["math"]], model),
        "math was packed from another base: 2 of the 2",
    )
    assert error.tensors == ("layers.0.up.weight", "layers.1.norm.weight")
    assert "--force" in error.hint


def test_a_base_with_one_tensor_altered(shelf, model, refused):
    rewrite(model, models.moved(shelf.tensors, 9, "embed.weight"))
    error = refused(WrongBaseError, 12, lambda: install([shelf.skills["code"]], model), r"embed\.weight \(differs\)")
    assert error.tensors == ("embed.weight",)
    install([shelf.skills["math"]], model)


def test_force_is_recorded_and_holds_for_later_commands(shelf, model):
    rewrite(model, models.moved(shelf.tensors, 9, "embed.weight"))
    before = whole(model)
    install([shelf.skills["prose"]], model, force=True)
    install([shelf.skills["math"]], model)
    assert {record.name: record.forced for record in status(model).skills} == {"prose": True, "math": False}
    remove(["math"], model)
    remove(["prose"], model)
    assert whole(model) == before


def test_an_exact_skill_that_cannot_be_forced(shelf, model, refused):
    changed = Tensor.from_float32(shelf.tensors["embed.weight"].float32() * np.float32(1e9), "BF16")
    rewrite(model, {**shelf.tensors, "embed.weight": changed})
    error = refused(WrongBaseError, 12, lambda: install([shelf.skills["code"]], model, force=True), "cannot be forced")
    assert error.tensors == ("embed.weight",)


@pytest.mark.parametrize("force", [False, True])
def test_missing_tensors_and_other_shapes(shelf, model, refused, force):
    tensors = {name: tensor for name, tensor in shelf.tensors.items() if name != "layers.0.up.weight"}
    tensors["layers.1.norm.weight"] = shelf.tensors["layers.0.up.weight"]
    rewrite(model, tensors)
    error = refused(
        WrongBaseError,
        12,
        lambda: install([shelf.skills["math"]], model, force=force),
        r"layers\.0\.up\.weight \(missing\), layers\.1\.norm\.weight \(shape \[8, 16\]\)",
    )
    assert "--force" not in error.hint


def test_a_truncated_shard(shelf, model, refused):
    os.truncate(model / SECOND, (model / SECOND).stat().st_size - 1)
    refused(DamagedCheckpointError, 13, lambda: install([shelf.skills["math"]], model), f"{SECOND}: is truncated")


def test_an_index_that_names_a_missing_file(shelf, model, refused):
    (model / SECOND).unlink()
    refused(DamagedCheckpointError, 13, lambda: install([shelf.skills["math"]], model), f"names the file {SECOND}")


def test_a_damaged_skill(shelf, model, refused, tmp_path):
    store = shutil.copytree(shelf.store, tmp_path / "store")
    digest = shelf.skills["math"].skill.digest
    layer = Repository.open(store).blobs.path(Repository.open(store).skill_manifest(digest).layers[0].digest)
    layer.chmod(0o644)
    data = bytearray(layer.read_bytes())
    data[-1] ^= 1
    layer.write_bytes(data)
    refused(CorruptStoreError, 13, lambda: open_skill(Repository.open(store), digest, "math"), "is damaged")


def test_a_skill_that_is_damaged_while_it_is_installed(shelf, model, refused, tmp_path):
    store = shutil.copytree(shelf.store, tmp_path / "store")
    skill = models.wanted(store, shelf.skills["math"].skill.digest, "math")
    config = skill.repository.skill_manifest(skill.skill.digest).config.digest
    path = skill.repository.blobs.path(config)
    path.chmod(0o644)
    path.write_bytes(b"x")
    refused(CorruptStoreError, 13, lambda: install([skill], model), "is damaged")


def test_a_damaged_copy_in_the_folder_does_not_prevent_removal(shelf, model):
    before = whole(model)
    install([shelf.skills["math"], shelf.skills["chat"]], model)
    digest = shelf.skills["math"].skill.digest
    blob = model / STATE / "skills/blobs/sha256" / digest[7:]
    blob.unlink()
    with pytest.raises(CorruptStoreError, match=r"math .* is damaged") as caught:
        remove(["chat"], model)
    assert "Remove math" in caught.value.hint
    remove(["math"], model)
    assert tensors_of(model) == digests(shelf.tuned["chat"])
    remove(None, model)
    assert whole(model) == before


def test_an_installed_skill(shelf, model, refused):
    install([shelf.skills["math"]], model)
    refused(SkillPackError, 1, lambda: install([shelf.skills["math"]], model), "Already installed .*math")
    other = models.wanted(shelf.store, shelf.skills["math"].skill.digest, "sums")
    refused(SkillPackError, 1, lambda: install([other], model), "sums is the skill that is installed as math")
    install([shelf.skills["math"], shelf.skills["chat"]], model)
    assert {record.name for record in status(model).skills} == {"math", "chat"}


def test_an_unknown_skill(shelf, model, refused):
    refused(NotFoundError, 1, lambda: remove(["poetry"], model), "poetry is not installed")
    refused(NotFoundError, 1, lambda: remove(None, model), "no installed skills")
    install([shelf.skills["math"]], model)
    assert "math" in refused(NotFoundError, 1, lambda: remove(["poetry"], model), "poetry is not installed").hint


def test_requests_that_make_no_sense(shelf, model, refused, tmp_path):
    math = shelf.skills["math"]
    refused(UsageError, 2, lambda: install([math._replace(weight=0)], model), "weight 0 of skill math")
    refused(UsageError, 2, lambda: install([math, math], model), "have the same name")
    other = models.wanted(shelf.store, math.skill.digest, "sums")
    refused(UsageError, 2, lambda: install([math, other], model), "have the same content")
    refused(UsageError, 2, lambda: install([math], model, hard_links=True), "only for a new folder")
    refused(UsageError, 2, lambda: install([math], model, output=model), "not an empty folder")
    refused(UsageError, 2, lambda: install([math], model, output=model / "out"), "is within")
    refused(CheckpointError, 1, lambda: install([math], model / FIRST), "is a file")
    refused(CheckpointError, 1, lambda: install([math], tmp_path / "nothing"), "no such folder")


def test_skills_that_do_not_go_together(shelf, model, refused, tmp_path):
    install([shelf.skills["code"]], model)
    config = {**models.CONFIG, "use_cache": "maybe"}
    other = models.make_skill(tmp_path / "store", shelf.base, shelf.tuned["math"], "other", config=config)
    refused(ConflictError, 1, lambda: install([other], model), r"code and other set use_cache in config\.json")


def test_files_that_somebody_changed(shelf, model, refused):
    install([shelf.skills["code"]], model)
    (model / "config.json").write_text("{}")
    data = bytearray((model / SECOND).read_bytes())
    data[-1] ^= 1
    (model / SECOND).write_bytes(data)
    for action in (lambda: install([shelf.skills["math"]], model), lambda: remove(None, model)):
        error = refused(ModifiedFolderError, 1, action, "changed by somebody else since skills were installed")
        assert set(error.paths) == {SECOND, "config.json"}
    assert {difference.path for difference in status(model).differences} == {SECOND, "config.json"}


def test_the_way_out_after_a_change_is_to_move_the_file(shelf, model):
    before = whole(model)
    install([shelf.skills["code"]], model)
    (model / "config.json").write_text("{}")
    (model / "config.json").rename(model.parent / "mine.json")
    remove(None, model)
    assert whole(model) == before


def test_a_touched_file_is_hashed_and_found_unchanged(shelf, model):
    install([shelf.skills["code"]], model)
    for path in [*model.glob("*"), *(model / STATE / "base").glob("*")]:
        os.utime(path, (1, 1))
    assert not status(model).differences
    remove(None, model)


def test_a_change_that_keeps_size_and_time_is_found_by_verify(shelf, model):
    install([shelf.skills["math"]], model)
    for path in (model / FIRST, model / STATE / "base" / SECOND):
        times = path.stat()
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert not status(model).differences
    found = status(model, verify=True).differences
    assert [(difference.path, difference.problem) for difference in found] == [
        (FIRST, "changed"),
        (f"{STATE}/base/{SECOND}", "changed"),
    ]


def test_an_original_that_is_gone(shelf, model, refused):
    install([shelf.skills["math"]], model)
    (model / STATE / "base" / FIRST).unlink()
    refused(DamagedCheckpointError, 13, lambda: remove(None, model), "Original files .* are missing or damaged")
    assert status(model).differences[0].problem == "missing"


def test_a_receipt_that_is_gone_or_makes_no_sense(shelf, model, refused):
    install([shelf.skills["math"]], model)
    receipt = model / STATE / "receipt.json"
    document = json.loads(receipt.read_text())
    document["originals"]["../escape"] = document["originals"][FIRST]
    for text in ("{", "{}", "[]", json.dumps(document)):
        receipt.write_text(text)
        refused(DamagedCheckpointError, 13, lambda: remove(None, model), "is not a receipt")
    receipt.write_text(json.dumps({**document, "format": 99}))
    refused(SkillPackError, 1, lambda: remove(None, model), "this version reads format 1")
    receipt.unlink()
    refused(SkillPackError, 1, lambda: install([shelf.skills["chat"]], model), "holds original files of the model")


def test_a_folder_of_the_hub_cache(shelf, tmp_path, model, refused):
    cached = tmp_path / "models--org--tiny" / "snapshots" / "0123"
    shutil.copytree(shelf.base, cached)
    error = refused(SkillPackError, 1, lambda: install([shelf.skills["math"]], cached), "is in the Hugging Face cache")
    assert "-o OUT" in error.hint
    (tmp_path / "linked").symlink_to(cached)
    refused(SkillPackError, 1, lambda: install([shelf.skills["math"]], tmp_path / "linked"), "Hugging Face cache")


def test_links_to_files_elsewhere(shelf, model, refused, tmp_path):
    (model / FIRST).rename(tmp_path / "blob")
    (model / FIRST).symlink_to(tmp_path / "blob")
    assert "-o OUT" in refused(SkillPackError, 1, lambda: install([shelf.skills["math"]], model), "is a link to").hint


def test_a_folder_in_the_way_of_a_file(shelf, model, refused, tmp_path):
    tuned = models.write_model(tmp_path / "tuned", shelf.tuned["math"])
    (tuned / "chat_template.jinja").write_text("{{ messages }}")
    report = pack(shelf.base, tuned, "template", exact=True, store=tmp_path / "store", author="Ada")
    (model / "chat_template.jinja").mkdir()
    skill = models.wanted(tmp_path / "store", report.digest, "template")
    refused(ConflictError, 1, lambda: install([skill], model), "not a plain file is in its way")


@pytest.fixture
def mounted(tmp_path):
    """Mount with these arguments at a folder for the test."""
    places = []

    def mounted(*arguments):
        place = tmp_path / f"mount-{len(places)}"
        place.mkdir()
        done = subprocess.run(["mount", *arguments, str(place)], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"mounting is not allowed here: {done.stderr.strip()}")
        places.append(place)
        return place

    yield mounted
    for place in reversed(places):
        # Lazily, because the traceback of an expected error may still hold a memory map.
        subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_disk_that_is_too_small(shelf, mounted):
    folder = shutil.copytree(shelf.base, mounted("-t", "tmpfs", "-o", "size=900k", "tmpfs") / "model")
    before = whole(folder)
    with pytest.raises(NoSpaceError, match=r"MB are needed, 0\.\d MB are free") as caught:
        install([shelf.skills["math"]], folder)
    assert caught.value.exit_code == 1
    assert whole(folder) == before


@pytest.mark.parametrize("fill", [4096, 16 << 10, 40 << 10])
def test_a_disk_that_fills_up_meanwhile(shelf, mounted, monkeypatch, fill):
    """The check in advance is made to pass, as if another program had taken the space since."""
    mount = mounted("-t", "tmpfs", "-o", "size=256k", "tmpfs")
    folder = shutil.copytree(shelf.base, mount / "model")
    before = whole(folder)
    free = shutil.disk_usage(mount).free
    (mount / "filler").write_bytes(bytes(free - fill))
    monkeypatch.setattr("skillpack.installing.os_errors.MARGIN", -(1 << 40))
    with pytest.raises(NoSpaceError, match="The disk is full") as caught:
        install([shelf.skills["math"]], folder)
    assert "as it was before" in caught.value.hint
    assert whole(folder) == before


def test_every_write_that_can_fail_before_the_commit_is_undone(shelf, model, monkeypatch):
    """ENOSPC at the n-th write, for every n, whatever file it falls on."""
    before = whole(model)
    write, failures, left = disk.write, 0, 0

    def failing(fd, data):
        nonlocal left
        left -= 1
        if left < 0:
            raise OSError(28, "No space left on device")
        write(fd, data)

    monkeypatch.setattr(disk, "write", failing)
    while True:
        left = failures
        try:
            install([shelf.skills["math"]], model)
            break
        except NoSpaceError:
            failures += 1
            assert whole(model) == before
    assert failures > 8
    assert tensors_of(model) == digests(shelf.tuned["math"])


def test_a_read_only_folder(shelf, model, mounted):
    mount = mounted("--bind", "-o", "ro", str(model))
    subprocess.run(["mount", "-o", "remount,bind,ro", str(mount)], check=True)
    before = whole(mount)
    with pytest.raises(ReadOnlyError, match="Read-only file system") as caught:
        install([shelf.skills["math"]], mount)
    assert caught.value.exit_code == 1
    assert "-o OUT" in caught.value.hint
    assert whole(mount) == before
    assert not status(mount).managed
    with pytest.raises(ReadOnlyError):
        install([shelf.skills["math"]], mount, dry_run=True)


def test_status_of_a_read_only_managed_folder(shelf, model, mounted):
    install([shelf.skills["math"]], model)
    mount = mounted("--bind", str(model))
    subprocess.run(["mount", "-o", "remount,bind,ro", str(mount)], check=True)
    assert not status(mount, verify=True).differences
    with pytest.raises(ReadOnlyError):
        remove(None, mount)
    install([shelf.skills["chat"]], mount, output=model.parent / "out")
    assert {record.name for record in status(model.parent / "out").skills} == {"math", "chat"}


HOLDER = """
import sys
from pathlib import Path
from skillpack.installing.lock import locked
from skillpack.installing.model_folder import ModelFolder
with locked(ModelFolder(Path(sys.argv[1]))):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_commands_at_once(shelf, model):
    install([shelf.skills["math"]], model)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(model)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout.readline() == "held\n"
    before = whole(model)
    for action in (
        lambda: install([shelf.skills["chat"]], model),
        lambda: remove(None, model),
        lambda: install([shelf.skills["chat"]], model, output=model.parent / "out"),
    ):
        with pytest.raises(BusyFolderError, match=f"process {holder.pid} is installing or removing") as caught:
            action()
        assert caught.value.exit_code == 11
    assert status(model).unfinished
    assert whole(model) == before
    holder.kill()
    holder.wait()
    holder.stdin.close()
    holder.stdout.close()
    remove(None, model)
    assert whole(model) == whole(shelf.base)


INSTALLER = """
import sys
from skillpack.installing import Wanted, install
from skillpack.errors import BusyFolderError
from skillpack.skill import open_skill
from skillpack_store import Repository
model, store, digest, name = sys.argv[1:]
repository = Repository.open(store)
skill = Wanted(open_skill(repository, digest, name), repository)
print("ready", flush=True)
sys.stdin.readline()
try:
    install([skill], model)
except BusyFolderError:
    sys.exit(11)
"""


@pytest.mark.parametrize("locks_work", [True, False])
def test_a_race_of_installs_ends_in_one_or_both(shelf, model, locks_work):
    """Also where `flock` succeeds for everybody: nothing is lost and the result is one of those that are right."""
    expected = []
    for names in (["math"], ["chat"], ["math", "chat"]):
        folder = shutil.copytree(shelf.base, model.parent / "-".join(names))
        install([shelf.skills[name] for name in names], folder)
        expected.append(models.model_files(folder))
    broken = "" if locks_work else "import fcntl\nfcntl.flock = lambda fd, how: None\n"
    for _ in range(3):
        folder = shutil.copytree(shelf.base, model.parent / "race")
        running = [
            subprocess.Popen(
                [
                    sys.executable,
                    "-c",
                    broken + INSTALLER,
                    str(folder),
                    str(shelf.store),
                    shelf.skills[name].skill.digest,
                    name,
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            for name in ("math", "chat")
        ]
        for process in running:
            assert process.stdout.readline() == "ready\n"
        for process in running:
            process.stdin.write("\n")
            process.stdin.flush()
        codes = [process.communicate()[0] or process.returncode for process in running]
        if locks_work:
            assert set(codes) <= {0, 11}
            assert 0 in codes
        found = status(folder, verify=True)
        assert not found.differences
        assert models.model_files(folder) in (expected if found.managed else [models.model_files(shelf.base)])
        if found.managed:
            remove(None, folder)
        assert whole(folder) == whole(shelf.base)
        shutil.rmtree(folder)


def test_a_skill_whose_content_contradicts_its_manifest(shelf, model, refused, monkeypatch):
    skill = shelf.skills["math"]
    wrong = models.base_tensors()["embed.weight"]
    monkeypatch.setattr(type(skill.skill), "decode", lambda *_: (wrong, None, None))
    with pytest.raises((DamagedSkillError, AttributeError)):
        install([skill], model)
    assert whole(model) == whole(shelf.base)


def test_the_lock_of_a_living_process_holds_without_flock(shelf, model, monkeypatch):
    monkeypatch.setattr("fcntl.flock", lambda fd, how: None)
    script = (
        "import sys\nfrom skillpack.installing.lock import _name\nimport os\nprint(_name(os.getpid()), flush=True)\n"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", script + "sys.stdin.read()"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    state = model / ".skillpack" / ".cache" / "huggingface"
    state.mkdir(parents=True)
    (state / "folder.lock").write_text(owner.stdout.readline())
    with pytest.raises(BusyFolderError, match=f"process {owner.pid} is installing"):
        install([shelf.skills["math"]], model)
    owner.communicate()
    install([shelf.skills["math"]], model)
    assert not (state / "folder.lock").exists()
