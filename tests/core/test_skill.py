"""Opening a skill: every byte is checked, and hostile content gives errors that say so."""

import json
from dataclasses import replace

import numpy as np
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skillpack import pack
from skillpack.checkpoint import open_checkpoint
from skillpack.errors import CheckpointError, CorruptStoreError, DamagedSkillError, NotFoundError, ReportedError
from skillpack.manifest import LAYER_TYPE, MEDIA_TYPE, Manifest, Part
from skillpack.safetensors_file import plan_header
from skillpack.skill import Skill, first_rows, open_skill
from skillpack.tensors import Tensor
from skillpack_store import Repository
from tests.packing.models import EMBED, NORM, assert_same, base_values, normal, rebuilt, stored, tuned_values, write

BASE = base_values(width=32, blocks=1, vocabulary=40)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A store with one skill of many kinds of parts, and the models it was packed from."""
    folder = tmp_path_factory.mktemp("kept")
    base = write(folder / "base", BASE, config={"a": 1})
    changed = tuned_values(BASE)
    changed |= {EMBED: np.concatenate([changed[EMBED], normal(3, 32)]), "classifier.weight": normal(4, 32)}
    changed |= {"lm_head.weight": changed[EMBED]}
    tuned = write(folder / "tuned", changed, config={"a": 2})
    (tuned / "vocab.txt").write_text("a\nb\n")
    report = pack(base, tuned, "s", store=folder / "store", quality=0.9)
    exact = pack(base, tuned, "exact", store=folder / "store", exact=True)
    return Repository.open(folder / "store"), report.digest, base, exact.digest, stored(changed)


@pytest.fixture
def skill(kept):
    return open_skill(kept[0], kept[1], "s")


class Blobs:
    """The blobs of a skill with another manifest or other layers; digests are not looked at."""

    def __init__(self, folder, manifest, layers):
        self.manifest = manifest
        self.files = {}
        for at, layer in enumerate(layers):
            self.files[str(at)] = folder / f"layer{at}"
            self.files[str(at)].write_bytes(layer)

    def path(self, digest):
        return self.files[digest]

    def read(self, digest, *, limit):
        return self.manifest

    def verify(self, digest):
        pass


@pytest.fixture
def rebuild(kept, tmp_path):
    """Opens the skill with a changed manifest (a document, or its bytes) or changed layers."""
    repository, digest, *_ = kept
    listing = repository.skill_manifest(digest)
    manifest = repository.blobs.path(listing.config.digest).read_bytes()
    content = [repository.blobs.path(layer.digest).read_bytes() for layer in listing.layers]

    def run(document=None, layers=None, change=None):
        data = manifest
        if change is not None:
            document = json.loads(zstandard.ZstdDecompressor().decompress(manifest))
            change(document)
        if document is not None:
            data = zstandard.ZstdCompressor().compress(json.dumps(document).encode())
        found = content if layers is None else layers
        described = [replace(listing.layers[0], digest=str(at)) for at in range(len(found))]
        return Skill("s", digest, replace(listing, layers=described), Blobs(tmp_path, data, found))

    return run


def decode_all(skill, base):
    for entry in skill.manifest.tensors:
        if entry.main is not None:
            skill.decode(entry, base.read(entry.reference) if entry.reference in base.tensors else None)
    skill.file_changes()


def test_what_was_packed_comes_back(kept, skill):
    repository, digest, base, exact, tuned = kept
    assert (skill.name, skill.digest) == ("s", digest)
    assert skill.size == repository.skill_manifest(digest).size
    assert_same(rebuilt(open_skill(repository, exact, "exact"), base), tuned)
    assert [(change.path, change.kind) for change in skill.file_changes()] == [
        ("config.json", "patch"),
        ("vocab.txt", "whole"),
    ]
    assert skill.file_changes()[1].content == b"a\nb\n"


def test_decoding_again_in_another_order_gives_the_same(kept, skill):
    base = open_checkpoint(kept[2])
    entries = [entry for entry in skill.manifest.tensors if entry.main is not None]

    def values(entry):
        decoded = skill.decode(entry, None if entry.reference is None else base.read(entry.reference))
        return [
            part.data.tobytes() if isinstance(part, Tensor) else part.tobytes() for part in decoded if part is not None
        ]

    first = [values(entry) for entry in entries]
    assert [values(entry) for entry in reversed(entries)] == first[::-1]


def test_an_unknown_digest_is_not_found(kept):
    with pytest.raises(NotFoundError):
        open_skill(kept[0], f"sha256:{'0' * 64}", "s")


def blob_digests(repository, digest):
    listing = repository.skill_manifest(digest)
    return [digest, listing.config.digest, *(layer.digest for layer in listing.layers)]


@pytest.mark.parametrize("blob", [0, 1, 2])
def test_one_flipped_byte_anywhere_is_found_on_opening(kept, blob):
    repository, digest, *_ = kept
    path = repository.blobs.path(blob_digests(repository, digest)[blob])
    data = path.read_bytes()
    path.chmod(0o644)
    places = {0, 1, 8, len(data) // 3, len(data) // 2, len(data) - 1, *range(0, len(data), 1 + len(data) // 15)}
    try:
        for at in sorted(places):
            damaged = bytearray(data)
            damaged[at] ^= 1 << (at % 8)
            path.write_bytes(damaged)
            with pytest.raises((CorruptStoreError, DamagedSkillError)):
                open_skill(repository, digest, "s")
        for cut in (data[:-1], data + b"\0", b""):
            path.write_bytes(cut)
            with pytest.raises((CorruptStoreError, DamagedSkillError)):
                open_skill(repository, digest, "s")
        path.unlink()
        with pytest.raises((CorruptStoreError, NotFoundError)):
            open_skill(repository, digest, "s")
    finally:
        path.unlink(missing_ok=True)
        path.write_bytes(data)
        path.chmod(0o444)
    open_skill(repository, digest, "s")


def layer_of(blocks):
    return plan_header({name: ("U8", (len(data),)) for name, data in blocks.items()}) + b"".join(blocks.values())


def blocks_of(skill):
    return {name: data.tobytes() for name, data in skill._blocks.items()}


def test_blocks_may_be_spread_over_layers(kept, skill, rebuild):
    again = rebuild(layers=[layer_of({name: data}) for name, data in blocks_of(skill).items()])
    decode_all(again, open_checkpoint(kept[2]))


@pytest.mark.parametrize("block", ["model.layers.0", "rest", "files"])
@pytest.mark.parametrize("edit", [lambda data: data[:-1], lambda data: data + b"\0", lambda data: b"", None])
def test_layers_of_another_extent_than_the_manifest_says_are_refused(skill, rebuild, block, edit):
    blocks = blocks_of(skill)
    if edit is None:
        del blocks[block]
    else:
        blocks[block] = edit(blocks[block])
    with pytest.raises(DamagedSkillError, match="disagree"):
        rebuild(layers=[layer_of(blocks)])


def test_a_block_that_the_manifest_does_not_know_is_refused(skill, rebuild):
    with pytest.raises(DamagedSkillError, match="disagree"):
        rebuild(layers=[layer_of(blocks_of(skill) | {"more.0": b"1"})])


@pytest.mark.parametrize("layers", [[b""], [b"\0" * 8], [b"garbage" * 9], []])
def test_a_layer_that_is_no_safetensors_file_is_refused(rebuild, layers):
    with pytest.raises((CorruptStoreError, DamagedSkillError)):
        rebuild(layers=layers)


def put(kept, config_type=MEDIA_TYPE, layer_type=LAYER_TYPE):
    repository, digest, *_ = kept
    listing = repository.skill_manifest(digest)
    config = repository.blobs.path(listing.config.digest).read_bytes()
    layers = [([repository.blobs.path(layer.digest).read_bytes()], layer_type) for layer in listing.layers]
    return repository.put_skill(config, config_type, layers).digest


def test_media_types_that_are_not_known_are_refused(kept):
    assert put(kept) == kept[1]
    for types, reason in ((("application/json", LAYER_TYPE), "manifest"), ((MEDIA_TYPE, "text/plain"), "layer")):
        with pytest.raises(DamagedSkillError, match=f"{reason} of unknown type"):
            open_skill(kept[0], put(kept, *types), "s")


def entry_at(document, name):
    return next(entry for entry in document["tensors"] if entry["name"] == name)


Q_PROJ = "model.layers.0.q_proj.weight"


@pytest.mark.parametrize(
    ("name", "change"),
    [
        (Q_PROJ, lambda entry: entry["main"].update(codec="unknown")),
        (Q_PROJ, lambda entry: entry["main"].update(codec="exact")),
        (Q_PROJ, lambda entry: entry["main"].update(codec="raw")),
        (Q_PROJ, lambda entry: entry["main"].update(codec="sparse")),
        (Q_PROJ, lambda entry: entry["main"].update(parameters={})),
        (Q_PROJ, lambda entry: entry["main"]["parameters"].update(columns=[99])),
        (Q_PROJ, lambda entry: entry["main"]["parameters"].update(top=99)),
        (Q_PROJ, lambda entry: entry["main"]["parameters"].update(top=1.5)),
        (
            NORM,
            lambda entry: entry["main"].update(codec="lowrank", parameters={"columns": [1], "top": 0, "outer": 1.0}),
        ),
        (NORM, lambda entry: entry.update(dtype="I16")),
        ("classifier.weight", lambda entry: entry.update(dtype="F32")),
        ("classifier.weight", lambda entry: entry.update(shape=[4, 33])),
        ("classifier.weight", lambda entry: entry.update(shape=[1 << 20, 1 << 19])),
        (EMBED, lambda entry: entry.update(shape=[44, 32])),
    ],
)
def test_a_part_that_is_tampered_with_is_refused_with_the_names(kept, rebuild, name, change):
    skill = rebuild(change=lambda document: change(entry_at(document, name)))
    entry = next(entry for entry in skill.manifest.tensors if entry.name == name)
    reference = None if entry.reference is None else open_checkpoint(kept[2]).read(entry.reference)
    with pytest.raises(ReportedError, match=rf"skill s, tensor {name}"):
        skill.decode(entry, reference)


@pytest.mark.parametrize(
    "tables", [None, [], 3, {}, {"lowrank.0": None}, {"lowrank.0": [[1], [1]]}, {"a": [[2**70], [2**16]]}]
)
def test_damaged_tables_are_refused(kept, rebuild, tables):
    with pytest.raises(DamagedSkillError):
        decode_all(rebuild(change=lambda document: document.update(tables=tables)), open_checkpoint(kept[2]))


def test_file_contents_are_checked_against_the_manifest(rebuild):
    skill = rebuild(change=lambda document: document["files"][0].update(size=1 << 20))
    with pytest.raises(DamagedSkillError, match="not as long"):
        skill.file_changes()

    def shift(document):
        first, second = document["files"]
        first["coded"] -= 1
        second["coded"] += 1

    with pytest.raises(DamagedSkillError, match="does not decompress"):
        rebuild(change=shift).file_changes()


def places(value, path=()):
    if path:
        yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*path, key))


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_to_a_manifest_gives_an_error_that_is_reported_or_none(kept, rebuild, data):
    values = [None, True, 0, 1, -1, 1.5, 1e300, 2**39, 2**62, "x", "", [], {}, [1], {"a": 1}]

    def change(document):
        *outer, last = data.draw(st.sampled_from(list(places(document))))
        place = document
        for key in outer:
            place = place[key]
        place[last] = data.draw(st.sampled_from(values))

    try:
        decode_all(rebuild(change=change), open_checkpoint(kept[2]))
    except ReportedError:
        return


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_streams_give_an_error_that_is_reported_or_wrong_numbers(kept, skill, rebuild, data):
    blocks = blocks_of(skill)
    name = data.draw(st.sampled_from(sorted(blocks)))
    damaged = bytearray(blocks[name])
    damaged[data.draw(st.integers(0, len(damaged) - 1))] ^= data.draw(st.integers(1, 255))
    try:
        decode_all(rebuild(layers=[layer_of(blocks | {name: bytes(damaged)})]), open_checkpoint(kept[2]))
    except ReportedError:
        return


def test_a_reference_of_another_shape_is_refused(kept, skill):
    entry = next(entry for entry in skill.manifest.tensors if entry.name == Q_PROJ)
    with pytest.raises(CheckpointError, match="where"):
        skill.decode(entry, open_checkpoint(kept[2]).read(NORM))


def test_common_rows_are_a_view():
    tensor = Tensor.of(np.arange(12).reshape(4, 3))
    assert first_rows(tensor, (4, 3)) is tensor
    cut = first_rows(tensor, (2, 3))
    assert cut.array().tolist() == [[0, 1, 2], [3, 4, 5]]
    assert np.shares_memory(cut.data, tensor.data)
    for shape in ((5, 3), (2, 2), (12,), ()):
        with pytest.raises(CheckpointError):
            first_rows(tensor, shape)


def test_the_manifest_of_a_stored_skill_is_canonical(kept, skill):
    repository, digest, *_ = kept
    data = repository.blobs.path(repository.skill_manifest(digest).config.digest).read_bytes()
    assert Manifest.load(data).dump() == data
    assert isinstance(skill.manifest.tensors[0].main, Part)
