"""The manifest of a skill: one form for one meaning, and nothing in it is believed unchecked."""

import json

import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from skillpack.delta import Renaming
from skillpack.errors import DamagedSkillError
from skillpack.manifest import CodedFile, Manifest, Part, TensorEntry, block_of
from skillpack_store import canonical_json

DIGEST = f"sha256:{'0123456789abcdef' * 4}"
MAIN = Part("lowrank", {"outer": 2.5e-05, "top": -7, "columns": [1, 0, 3]}, (100, 20))
MANIFEST = Manifest(
    base_fingerprint=DIGEST,
    tuned_fingerprint=f"sha256:{'f' * 64}",
    renaming=Renaming("", "bert."),
    gone=(("cls.bias", DIGEST), ("cls.weight", DIGEST)),
    tensors=(
        TensorEntry("a.0.w", "BF16", (5, 4), "a.0.w", DIGEST, main=MAIN, error=0.125, bound=100),
        TensorEntry(
            "a.1.w", "F32", (9, 4), "a.1.w", DIGEST, 7, main=Part("exact", {}, (8,)), rows=Part("raw", {}, (30,))
        ),
        TensorEntry("b.é", "I64", (), main=Part("raw", {}, ())),
        TensorEntry("head", "BF16", (5, 4), "a.0.w", DIGEST, same_as="a.0.w"),
    ),
    files=(CodedFile("config.json", "patch", 70, 60), CodedFile("vocab.txt", "whole", 7, 16)),
    tables={"lowrank.0": [[0, 1], [65_000, 536]]},
)


def document():
    return json.loads(zstandard.ZstdDecompressor().decompress(MANIFEST.dump()))


def dumped(changed):
    return zstandard.ZstdCompressor().compress(json.dumps(changed).encode())


def test_a_manifest_comes_back():
    again = Manifest.load(MANIFEST.dump())
    assert again == MANIFEST
    assert again.dump() == MANIFEST.dump()


def test_its_json_is_canonical_and_leaves_out_what_is_absent():
    text = zstandard.ZstdDecompressor().decompress(MANIFEST.dump())
    assert text == canonical_json(document())
    assert list(document()["tensors"][2]) == ["dtype", "main", "name", "shape"]
    assert document()["tensors"][0]["digest"] == DIGEST.removeprefix("sha256:")
    assert document()["coder"] == "constriction-ans-24"


def test_a_manifest_without_a_bound_opens_and_has_none():
    old = Manifest.load(dumped(removed(("tensors", 0, "bound"))))
    assert [entry.bound for entry in old.tensors] == [None] * 4
    assert (old.bound, old.over_bound(1000), old.tensors[0].bounded_bytes) == (None, None, 0)


def test_the_bound_is_about_what_is_approximated():
    assert (MANIFEST.bound, MANIFEST.tensors[0].bounded_bytes) == (100, 120)
    # Of 1000 bytes, 38 are lossless and 76 are files.
    assert MANIFEST.over_bound(1000) == 8.86
    assert Manifest.load(dumped(replaced(("tensors", 0, "bound"), 0))).over_bound(1000) is None


def test_keys_of_a_tensor_that_are_not_known_are_ignored():
    changed = document()
    changed["tensors"][0]["colour"] = "red"
    assert Manifest.load(dumped(changed)) == MANIFEST


def paths(value, path=()):
    """The place of every value in a document."""
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from paths(inner, (*path, key))
    if isinstance(value, list):
        for at, inner in enumerate(value):
            yield from paths(inner, (*path, at))


def replaced(path, value):
    changed = document()
    if not path:
        return value
    *outer, last = path
    place = changed
    for key in outer:
        place = place[key]
    place[last] = value
    return changed


def removed(path):
    changed = document()
    *outer, last = path
    place = changed
    for key in outer:
        place = place[key]
    del place[last]
    return changed


OPEN = ("parameters", "tables")
"""What codecs and the entropy stage check themselves."""
CHECKED = [path for path in paths(document()) if not (set(path[:-1]) & set(OPEN)) and path != ("tables",)]
WRONG_TYPES = [True, -1, 1.5, 2**63, [], {}, [None], {"a": None}]
TEXTS = {
    "base",
    "tuned",
    "coder",
    "strip",
    "add",
    "name",
    "dtype",
    "reference",
    "digest",
    "same_as",
    "codec",
    "path",
    "kind",
}


def is_text(path):
    return path[-1] in TEXTS or (path[:1] == ("gone",) and len(path) == 3)


@pytest.mark.parametrize("path", [path for path in CHECKED if path and is_text(path)], ids=str)
@pytest.mark.parametrize("value", [*WRONG_TYPES, 5])
def test_text_of_another_type_is_refused(path, value):
    with pytest.raises(DamagedSkillError):
        Manifest.load(dumped(replaced(path, value)))


SENSIBLE = [(("format",), True), (("tensors", 0, "error"), 2**70)]
"""A number that is equal to the format's, and an error that is merely large."""
OTHERS = [
    (path, value)
    for path in CHECKED
    for value in ("x", True, -1, 2**70, {"a": None})
    if path
    and not is_text(path)
    and (path, value) not in SENSIBLE
    and not (path[-1] == "parameters" and value == {"a": None})
]


@pytest.mark.parametrize(("path", "value"), OTHERS, ids=str)
def test_numbers_and_containers_of_another_type_are_refused(path, value):
    with pytest.raises(DamagedSkillError):
        Manifest.load(dumped(replaced(path, value)))


OPTIONAL = [("tensors", 0, "error"), ("tensors", 0, "bound")]


@pytest.mark.parametrize(
    "path", [path for path in CHECKED if path and isinstance(path[-1], str) and path not in OPTIONAL], ids=str
)
def test_a_missing_field_is_refused(path):
    with pytest.raises(DamagedSkillError):
        Manifest.load(dumped(removed(path)))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("format",), 2),
        (("format",), 0),
        (("coder",), "huffman"),
        (("base",), DIGEST[:-1]),
        (("base",), DIGEST.upper()),
        (("base",), "sha256:../../etc/passwd"),
        (("gone", 0, 1), "0" * 64),
        (("gone", 0), ["a"]),
        (("gone", 0), ["a", DIGEST, "b"]),
        (("tensors", 0, "digest"), DIGEST),
        (("tensors", 0, "dtype"), "F8_E4M3"),
        (("tensors", 0, "dtype"), "bf16"),
        (("tensors", 0, "shape"), [-1, 4]),
        (("tensors", 0, "shape"), [1 << 21, 1 << 20]),
        (("tensors", 0, "shape"), [0, 1 << 41]),
        (("tensors", 0, "shape"), "54"),
        (("tensors", 0, "error"), -0.5),
        (("tensors", 0, "error"), "0.5"),
        (("tensors", 0, "error"), True),
        (("tensors", 0, "reference"), None),
        (("tensors", 0, "same_as"), "a.1.w"),
        (("tensors", 0, "common_rows"), 6),
        (("tensors", 0, "common_rows"), 3),
        (("tensors", 1, "common_rows"), 9),
        (("tensors", 1, "common_rows"), None),
        (("tensors", 1, "common_rows"), 10),
        (("tensors", 1, "rows"), None),
        (("tensors", 2, "common_rows"), 0),
        (("tensors", 3, "main"), {"codec": "raw", "parameters": {}, "sizes": []}),
        (("tensors", 3, "same_as"), None),
        (("tensors", 0, "main", "sizes"), [1, -1]),
        (("tensors", 0, "main", "sizes"), [1.0]),
        (("tensors", 0, "main", "sizes"), [True]),
        (("tensors", 0, "main", "parameters"), []),
        (("tensors", 0, "name"), "z"),
        (("tensors", 1, "name"), "a.0.w"),
        (("files", 0, "path"), "../config.json"),
        (("files", 0, "path"), "/etc/config.json"),
        (("files", 0, "path"), "modeling.py"),
        (("files", 0, "path"), "model.safetensors"),
        (("files", 0, "path"), "zzz.json"),
        (("files", 1, "path"), "config.json"),
        (("files", 0, "kind"), "delete"),
        (("gone", 0, 0), "zzz"),
        (("gone", 1, 0), "cls.bias"),
    ],
)
def test_values_that_make_no_sense_are_refused(path, value):
    with pytest.raises(DamagedSkillError):
        Manifest.load(dumped(replaced(path, value)))


@pytest.mark.parametrize("value", [None, [], {}, 3, "x", True, [[]]])
def test_something_else_than_a_manifest_is_refused(value):
    with pytest.raises(DamagedSkillError):
        Manifest.load(dumped(value))


def test_a_newer_format_says_what_to_do():
    with pytest.raises(DamagedSkillError, match="format 2") as caught:
        Manifest.load(dumped(replaced(("format",), 2)))
    assert caught.value.hint == "Upgrade skillpack."
    assert caught.value.exit_code == 13


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        MANIFEST.dump()[:-1],
        MANIFEST.dump()[:40],
        zstandard.ZstdCompressor().compress(b""),
        zstandard.ZstdCompressor().compress(b"\xff\xfe"),
        zstandard.ZstdCompressor().compress(b"[" * 10_000),
        zstandard.ZstdCompressor().compress(b'{"format":1,"format":1}'),
        zstandard.ZstdCompressor().compress(b'{"format":NaN}'),
        zstandard.ZstdCompressor().compress(bytes((256 << 20) + 1)),
        zstandard.ZstdCompressor(write_content_size=False).compress(b"{}"),
    ],
    ids=range(11),
)
def test_bytes_that_are_no_manifest_are_refused(data):
    with pytest.raises(DamagedSkillError):
        Manifest.load(data)


@settings(deadline=None, max_examples=200)
@given(st.data())
def test_a_flipped_byte_never_gives_another_error(data):
    damaged = bytearray(MANIFEST.dump())
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        Manifest.load(bytes(damaged))
    except DamagedSkillError:
        return


def test_places_follow_one_another_in_each_block():
    assert MANIFEST.places() == {"a.0.w": 0, "a.1.w": 0, "b.é": 0, "head": 0}
    tensors = tuple(TensorEntry(f"a.0.{at}", "U8", (), main=Part("raw", {}, (at, 1))) for at in range(4))
    more = (*tensors, TensorEntry("rest", "U8", (), main=Part("raw", {}, (5,))))
    manifest = Manifest(DIGEST, DIGEST, Renaming(), (), more, (), {})
    assert manifest.places() == {"a.0.0": 0, "a.0.1": 1, "a.0.2": 3, "a.0.3": 6, "rest": 0}
    assert [entry.nbytes for entry in more] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("model.layers.0.q.weight", "model.layers.0"),
        ("h.11.mlp.3.weight", "h.11"),
        ("0.weight", "0"),
        ("lm_head.weight", "rest"),
        ("conv1.weight", "rest"),
        ("scale.5", "rest"),
        ("2_Dense/linear.weight", "rest"),
        ("", "rest"),
    ],
)
def test_blocks(name, block):
    assert block_of(name) == block
