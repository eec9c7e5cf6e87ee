"""Skills and model folders that somebody made to do harm: each way has an error that says what it is."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from types import SimpleNamespace

import pytest
import zstandard

from skillpack.checkpoint import open_checkpoint
from skillpack.codecs import codec_named
from skillpack.codecs.entropy import ChunkReader, Tables
from skillpack.codecs.protocol import Layout
from skillpack.companions import FileChange, apply
from skillpack.errors import (
    ConflictError,
    CorruptStoreError,
    DamagedCheckpointError,
    DamagedSkillError,
    DataError,
    SkillPackError,
    StoreError,
)
from skillpack.installing import install, status
from skillpack.installing.checks import check_places
from skillpack.installing.journal import Journal, Move, finish
from skillpack.installing.model_folder import ModelFolder
from skillpack.installing.receipt import FileRecord, Receipt, SkillRecord
from skillpack.manifest import LAYER_TYPE, MEDIA_TYPE, CodedFile, Manifest, Part, TensorEntry
from skillpack.model_card import CARD_TYPE, read_card
from skillpack.packing.statistics import read_statistics
from skillpack.safetensors_file import plan_header, read_header
from skillpack.skill import Skill, open_skill
from skillpack_store import Descriptor, Repository, SkillManifest, canonical_json, digest_of
from tests.core.test_manifest import MANIFEST, document, dumped
from tests.installing import models
from tests.store.skills import put_skill

DIGEST = digest_of(b"")


def changed(**tensor):
    """The manifest with a change to its first tensor."""
    found = document()
    found["tensors"][0] |= tensor
    return dumped(found)


# Manifests.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "a\nb"}, "impossible name"),
        ({"name": ""}, "impossible name"),
        ({"name": "__metadata__"}, "impossible name"),
        ({"name": "a\u202eb"}, "impossible name"),
        ({"name": "a\u200bb"}, "impossible name"),
        ({"name": "a\x1b[2Jb"}, "impossible name"),
        ({"reference": "a\nb"}, "impossible name"),
        ({"shape": [1] * 33}, "has dtype BF16 and shape"),
        ({"shape": [1 << 62, 1 << 62]}, "has dtype BF16 and shape"),
        ({"shape": [1 << 32, 1 << 32, 0]}, "has dtype BF16 and shape"),
        ({"shape": [1 << 63]}, "not a count"),
        ({"shape": [-1, -1]}, "not a count"),
        ({"shape": [2.0]}, "not a count"),
        ({"shape": [True]}, "not a count"),
        ({"common_rows": 1 << 62}, "rows in common"),
        ({"error": -1}, "not an error"),
        ({"bound": -1}, "not a count"),
    ],
)
def test_a_manifest_with_an_impossible_tensor(change, message):
    with pytest.raises(DamagedSkillError, match=message):
        Manifest.load(changed(**change))


def test_a_manifest_whose_chunks_overflow(tmp_path):
    found = document()
    found["tensors"][0]["main"]["sizes"] = [(1 << 63) - 1] * 3
    manifest = Manifest.load(dumped(found))
    assert manifest.tensors[0].nbytes == 3 * ((1 << 63) - 1)
    with pytest.raises(DamagedSkillError, match="disagree about the coded streams"):
        opened(tmp_path, found, {})


def test_a_manifest_with_files_that_some_disks_take_for_one():
    found = document()
    found["files"] = [vars(CodedFile("Config.json", "whole", 1, 1)), vars(CodedFile("config.json", "whole", 1, 1))]
    with pytest.raises(DamagedSkillError, match="differ only in case"):
        Manifest.load(dumped(found))


def test_a_manifest_with_an_impossible_name_that_goes():
    found = document()
    found["gone"] = [["a\nb", DIGEST]]
    with pytest.raises(DamagedSkillError, match="impossible name"):
        Manifest.load(dumped(found))


def test_keys_that_are_there_twice():
    text = zstandard.ZstdDecompressor().decompress(MANIFEST.dump()).replace(b'"gone":', b'"gone":[],"gone":', 1)
    with pytest.raises(DamagedSkillError, match="'gone' is there twice"):
        Manifest.load(zstandard.ZstdCompressor().compress(text))


# Decompression bombs.


def bomb(size):
    """Zeros that take 30,000 times less."""
    compressor = zstandard.ZstdCompressor(level=3).compressobj(size=size)
    block = bytes(1 << 20)
    return b"".join([*(compressor.compress(block) for _ in range(size >> 20)), compressor.flush()])


def test_a_manifest_that_is_a_bomb():
    with pytest.raises(DamagedSkillError, match="it announces 314572800 bytes"):
        Manifest.load(bomb(300 << 20))
    crowd = zstandard.ZstdCompressor(level=1).compress(b"[" + b"[]," * (9 << 20) + b"1]")
    assert len(crowd) < 10_000
    with pytest.raises(DamagedSkillError, match="more than 8388608 values"):
        Manifest.load(crowd)


def test_a_frame_that_does_not_say_how_long_it_is():
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(b"{}")
    with pytest.raises(DamagedSkillError, match="it announces"):
        Manifest.load(unsized)


@pytest.mark.parametrize("extra", [b"x", zstandard.ZstdCompressor().compress(b"more")])
def test_a_frame_with_something_after_it(extra):
    with pytest.raises(DamagedSkillError, match="damaged"):
        Manifest.load(MANIFEST.dump() + extra)


def test_a_file_that_is_a_bomb(tmp_path):
    found = document()
    found["tensors"] = []
    for size, coded, message in (
        (300 << 20, b"", "more than the 268435456 that are allowed"),
        (10, bomb(64 << 20), "not as long as its manifest says"),
        (10, zstandard.ZstdCompressor().compress(b"x" * 10) + b"x", "does not decompress"),
        (10, b"no zstandard", "does not decompress"),
    ):
        found["files"] = [vars(CodedFile("vocab.txt", "whole", min(size, 1), len(coded))) | {"size": size}]
        with pytest.raises(DamagedSkillError, match=message):
            opened(tmp_path, found, {"files": coded}).file_changes()


def test_a_raw_part_that_is_a_bomb():
    for coded in (bomb(64 << 20), zstandard.ZstdCompressor().compress(bytes(24)) + b"x"):
        reader = ChunkReader(coded, Tables({}))
        with pytest.raises(DamagedSkillError, match=r"announces 67108864 bytes where 24|does not decompress"):
            codec_named("raw").decode({}, iter([reader]), Layout("F32", (6,)), None)


CODECS = {
    "raw": {},
    "sparse": {"step": 1.0},
    "direct": {"step": 1.0, "level": 0},
    "factors": {"alpha": 1, "dtypes": ["F32", "F32"], "rank": 65536, "rooted": False, "turned": False},
    "lowrank": {"columns": [], "outer": 1.0, "top": 0},
    "tucker": {"axes": [], "slices": [], "tops": [], "outer": 1.0, "level": 0},
}
GREEDY = """
import resource
from skillpack.errors import SkillPackError
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
from tests.core.test_hostile import CODECS, greedy
for codec in CODECS:
    try:
        greedy(codec)
    except SkillPackError as error:
        print(error)
"""


def greedy(codec):
    """Decode a skill of a few hundred bytes that announces two terabytes."""
    from pathlib import Path
    from tempfile import TemporaryDirectory

    shape = (1 << 13, 1 << 13, 1 << 13) if codec == "tucker" else (1 << 20, 1 << 19)
    entry = TensorEntry("new", "F32", shape, main=Part(codec, CODECS[codec], ()))
    found = document() | {"tensors": [entry.to_json()], "files": []}
    with TemporaryDirectory() as folder:
        skill = opened(Path(folder), found, {})
        skill.decode(skill.manifest.tensors[0], None)


def test_small_skills_that_announce_terabytes():
    done = subprocess.run([sys.executable, "-c", GREEDY], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    messages = done.stdout.splitlines()
    assert len(messages) == len(CODECS)
    for message in messages:
        assert message.startswith("skill s, tensor new: not enough memory") or "cannot be decoded" in message
    assert done.stderr == ""


# Layers and streams.


class Blobs:
    """The blobs of a skill that nobody stored."""

    def __init__(self, folder, manifest, layers):
        self.manifest = manifest
        self.files = {}
        for at, layer in enumerate(layers):
            (folder / f"layer{at}").write_bytes(layer)
            self.files[f"sha256:{at:064x}"] = folder / f"layer{at}"

    def path(self, digest):
        return self.files[digest]

    def read(self, digest, *, limit):
        return self.manifest

    def verify(self, digest):
        pass


def opened(folder, found, *layers, dtype="U8"):
    """Open a skill of this manifest and layers, each block -> bytes."""
    content = [
        plan_header({block: (dtype, (len(data),)) for block, data in layer.items()}) + b"".join(layer.values())
        for layer in layers
        if layer
    ]
    blobs = Blobs(folder, dumped(found), content)
    listed = [Descriptor(digest, 0, LAYER_TYPE) for digest in blobs.files]
    return Skill("s", DIGEST, SkillManifest(Descriptor(DIGEST, 0, MEDIA_TYPE), listed, 0), blobs)


def test_streams_that_are_there_twice(tmp_path):
    found = document() | {"tensors": [], "files": [vars(CodedFile("vocab.txt", "whole", 1, 3))]}
    assert opened(tmp_path, found, {"files": b"abc"})
    with pytest.raises(DamagedSkillError, match="has the streams of files twice"):
        opened(tmp_path, found, {"files": b"abc"}, {"files": b"xyz"})


def test_a_layer_of_tensors(tmp_path):
    found = document() | {"tensors": [], "files": [vars(CodedFile("vocab.txt", "whole", 1, 3))]}
    for dtype in ("I8", "BOOL"):
        with pytest.raises(CorruptStoreError, match="holds tensors, not coded streams"):
            opened(tmp_path, found, {"files": b"abc"}, dtype=dtype)


def test_a_config_in_the_place_of_a_layer_and_a_layer_in_that_of_a_config(tmp_path):
    repository = Repository.create(tmp_path / "store")
    config = MANIFEST.dump()
    swapped = repository.put_skill(config, MEDIA_TYPE, [([config], MEDIA_TYPE)])
    with pytest.raises(DamagedSkillError, match="has a layer of unknown type"):
        open_skill(repository, swapped.digest, "s")
    swapped = repository.put_skill(config, LAYER_TYPE, [])
    with pytest.raises(DamagedSkillError, match="has a manifest of unknown type"):
        open_skill(repository, swapped.digest, "s")
    swapped = repository.put_skill(b"no zstandard", MEDIA_TYPE, [])
    with pytest.raises(DamagedSkillError, match="manifest of the skill is damaged"):
        open_skill(repository, swapped.digest, "s")
    swapped = repository.put_skill(config, MEDIA_TYPE, [([config], LAYER_TYPE)])
    with pytest.raises(CorruptStoreError, match="a layer of the skill is damaged"):
        open_skill(repository, swapped.digest, "s")


def safetensors(header):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (struct.pack("<Q", 1 << 63) + b"{}", "announces a header of"),
        (struct.pack("<Q", 1000) + b"{}", "is truncated"),
        (safetensors(b"[" * 100_000), "not valid JSON"),
        (safetensors(b'{"a":1,"a":1}'), "occurs twice"),
        (safetensors(b"[" + b"[]," * (9 << 20) + b"1]"), "more than 8388608 values"),
        (safetensors({"a": {"dtype": "U8", "shape": [1 << 62, 4], "data_offsets": [0, 0]}}), "impossible shape"),
        (
            safetensors({"a": {"dtype": "U8", "shape": [1 << 32, 1 << 32, 0], "data_offsets": [0, 0]}}),
            "impossible shape",
        ),
        (safetensors({"a": {"dtype": "U8", "shape": [0] * 33, "data_offsets": [0, 0]}}), "impossible shape"),
        (safetensors({"a": {"dtype": "U8", "shape": [-1], "data_offsets": [1, 0]}}), "impossible shape"),
        (safetensors({"a": {"dtype": "U8", "shape": [9], "data_offsets": [0, 9]}}), "is truncated"),
        (safetensors({"a": {"dtype": "U8", "shape": [1], "data_offsets": [-1, 0]}}), "impossible data_offsets"),
        (safetensors({"a\u202e": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}}), "impossible name"),
        (safetensors({"__metadata__": {"a": 1}}), "not a map of strings"),
    ],
)
def test_headers_of_layers_that_are_refused(content, message, tmp_path):
    (tmp_path / "layer").write_bytes(content)
    with pytest.raises(DamagedCheckpointError, match=message):
        read_header(tmp_path / "layer")


# Changed files.


@pytest.mark.parametrize(
    "path",
    [
        "../config.json", "/etc/config.json", "a/../config.json", "a//config.json", "./config.json", "a\\config.json",
        ".skillpack/config.json", ".git/config.json", "con.json", "NUL.json", "aux/config.json", "Com1.x/config.json",
        "c\u043enfig.json", "config\u200b.json", "config.json\u202e", "config.json\n", "config.json ", "a./config.json",
        "conf\u0069\u0307g.json", "\uff0e\uff0e/config.json", "config.json:stream", "model.safetensors", "run.py",
        "x" * 300 + ".json",
    ],
)  # fmt: skip
def test_files_that_no_skill_may_write(path):
    with pytest.raises(DamagedSkillError, match="may not change the file"):
        FileChange(path, "whole", b"{}")


@pytest.mark.parametrize(
    "patch",
    [
        b'[{"op":"add","op":"remove","path":"/a"}]',
        b'[{"op":"replace","path":"/a","value":{"b":1,"b":2}}]',
        b'[{"op":"move","path":"/a","from":"/b"}]',
        b'[{"op":"add","path":"a","value":1}]',
        b'{"op":"add"}',
        b"[" * 100_000,
        b'[{"op":"replace","path":"","value":' + b"[" * 200 + b"]" * 200 + b"}]",
    ],
)
def test_patches_that_are_refused(patch):
    with pytest.raises(DamagedSkillError, match="not a valid patch"):
        apply(FileChange("config.json", "patch", patch), b"{}")


# What is attached.


@pytest.mark.parametrize("files", [[], [(b"\xff\xfe", "text/markdown", "README.md")], [(b"x" * (2 << 20), "a/b", "x")]])
def test_a_card_that_cannot_be_read_does_not_hide_the_skill(files, tmp_path):
    repository = Repository.create(tmp_path / "store")
    skill = put_skill(repository, "one")
    assert read_card(repository, skill.digest) == ""
    repository.attach(skill, CARD_TYPE, [(b"# Sound", "text/markdown", "README.md")])
    repository.attach(skill, CARD_TYPE, files)
    assert read_card(repository, skill.digest) == "# Sound"


# Model folders.


@pytest.fixture
def outside(tmp_path):
    folder = tmp_path / "outside"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "precious").write_bytes(b"precious")
    return folder


def unharmed(outside):
    return [path.relative_to(outside).as_posix() for path in sorted(outside.rglob("*"))] == ["deep", "deep/precious"]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """A base, and a skill that changes a file in a folder of it."""
    folder = tmp_path_factory.mktemp("shelf")
    base = models.base_tensors()
    models.write_model(folder / "base", base)
    (folder / "store").mkdir()
    skill = models.make_skill(folder / "store", folder / "base", models.moved(base, 1, "embed.weight"), "math")
    return SimpleNamespace(base=folder / "base", skill=skill)


@pytest.fixture
def model(shelf, tmp_path):
    import shutil

    return shutil.copytree(shelf.base, tmp_path / "model")


STATE = ".skillpack/.cache/huggingface"


@pytest.mark.parametrize(
    "place", [".skillpack", ".skillpack/.cache", STATE, f"{STATE}/base", f"{STATE}/skills", f"{STATE}/staging-1"]
)
def test_a_corner_of_a_model_folder_that_leads_elsewhere(place, model, shelf, outside):
    (model / place).parent.mkdir(parents=True, exist_ok=True)
    (model / place).symlink_to(outside)
    with pytest.raises(SkillPackError, match="is a link to somewhere else") as caught:
        install([shelf.skill], model)
    assert str(model / place) in caught.value.message
    if place.endswith(("staging-1", "huggingface")):
        with pytest.raises(SkillPackError, match="is a link to somewhere else"):
            status(model)
    assert unharmed(outside)


@pytest.mark.parametrize("name", ["receipt.json", "journal.json"])
@pytest.mark.parametrize("target", ["/dev/zero", "precious"])
def test_a_receipt_or_a_journal_that_is_a_link(name, target, model, shelf, outside):
    (model / STATE).mkdir(parents=True)
    (model / STATE / name).symlink_to(target if target.startswith("/") else outside / "deep" / target)
    with pytest.raises(SkillPackError, match=f"{name} is a link to somewhere else"):
        install([shelf.skill], model)
    assert unharmed(outside)


def test_a_journal_that_writes_through_a_link(model, outside):
    folder = ModelFolder(model)
    (folder.state / "staging-1" / "files" / "sub").mkdir(parents=True)
    (folder.state / "staging-1" / "files" / "sub" / "evil.json").write_bytes(b"evil")
    (model / "sub").symlink_to(outside / "deep")
    moves = (Move("sub/evil.json", "none", "ours", False), Move("sub/precious", "ours", "none", False))
    folder.journal_path.write_bytes(Journal("staging-1", moves, (), receipt=False, previous="").dump())
    for work in (lambda: finish(folder), lambda: status(model)):
        with pytest.raises(ConflictError, match="sub is a link to somewhere else, and nothing is written through it"):
            work()
    assert unharmed(outside)


def test_a_file_that_would_be_written_through_a_link(model, outside):
    (model / "sub").symlink_to(outside / "deep")
    check_places(ModelFolder(model), ["config.json", "other/config.json"])
    with pytest.raises(ConflictError, match="sub is a link to somewhere else, and nothing is written through it"):
        check_places(ModelFolder(model), ["config.json", "sub/config.json"])
    assert unharmed(outside)


@pytest.mark.parametrize(
    "path", ["../x", "/x", "a/../../x", ".skillpack/x", ".SKILLPACK/x", ".\u212ackage", "a\u202e", "a\\b"]
)
@pytest.mark.parametrize("where", ["moves", "leave", "staging"])
def test_journals_that_name_other_places(path, where, tmp_path):
    text = {"format": 1, "staging": "staging-1", "moves": [], "leave": [], "receipt": False, "previous": ""}
    if path == ".\u212ackage":
        path = ".s\u212aillpack/x"
    text[where] = {"moves": [[path, "none", "ours", True]], "leave": [path], "staging": path}[where]
    with pytest.raises(DamagedCheckpointError, match="is not a journal"):
        Journal.load(canonical_json(text), tmp_path / "journal.json")


def receipt(**change):
    record = FileRecord(3, DIGEST, 5)
    sound = Receipt((SkillRecord("math", "", DIGEST, 1.0),), DIGEST, {}, {"a": record}, {}, {}, (), "skillpack")
    text = json.loads(sound.dump())
    for path, value in change.items():
        place = text
        *parents, last = path.split("__")
        for key in parents:
            place = place[int(key) if isinstance(place, list) else key]
        place[last] = value
    return canonical_json(text)


@pytest.mark.parametrize(
    "change",
    [
        {"skills__0__weight": "nan"},
        {"skills__0__weight": "1"},
        {"skills__0__weight": True},
        {"base__weights__a__size": -1},
        {"base__weights__a__size": "3"},
        {"base__weights__a__size": 3.5},
        {"base__weights__a__mtime_ns": True},
        {"originals": {"../x": {"size": 3, "sha256": DIGEST, "mtime_ns": 1}}},
        {"written": {"/x": {"size": 3, "sha256": DIGEST, "mtime_ns": 1}}},
        {"folders": [".skillpack"]},
        {"folders": ["a/.."]},
    ],
)
def test_receipts_that_are_refused(change, tmp_path):
    assert Receipt.load(receipt(), tmp_path / "receipt.json").weights
    with pytest.raises(DamagedCheckpointError, match="is not a receipt"):
        Receipt.load(receipt(**change), tmp_path / "receipt.json")


@pytest.mark.parametrize("content", [b"[" * 100_000, b"3", b'{"a":1}', b"null"])
def test_modules_that_are_none(content, model):
    (model / "modules.json").write_bytes(content)
    with pytest.raises(DamagedCheckpointError, match=r"modules\.json (is not valid JSON|does not hold a list)"):
        open_checkpoint(model)


@pytest.mark.parametrize(
    "content",
    [
        b"[" * 100_000,
        b'{"schema":1,"schema":1,"tuned":"t","metric":"m","sensitivity":{}}',
        b'{"schema":1,"tuned":"t","metric":"m","sensitivity":{"w":1e999}}',
        b'{"schema":1,"tuned":"t","metric":"m","sensitivity":{"w":NaN}}',
        b"\xff",
    ],
)
def test_statistics_that_are_refused(content, tmp_path):
    (tmp_path / "s.json").write_bytes(content)
    with pytest.raises(DataError, match=r"s\.json is not JSON"):
        read_statistics(tmp_path / "s.json", "t", "m")


def test_a_store_kept_in_a_model_folder_that_leads_elsewhere(model, shelf, outside):
    install([shelf.skill], model)
    blobs = model / STATE / "skills" / "blobs"
    blobs.rename(outside.with_name("blobs"))
    blobs.symlink_to(outside)
    with pytest.raises(StoreError, match="blobs is a link to somewhere else"):
        install([shelf.skill._replace(weight=0.5)], model)
    assert unharmed(outside)
    assert os.path.realpath(blobs) == str(outside)
