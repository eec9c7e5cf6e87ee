from __future__ import annotations

import json

import pytest

from skillpack_store import (
    SKILL_TYPE,
    CorruptStoreError,
    NoStoreError,
    NotFoundError,
    Repository,
    StoreError,
    digest_of,
)
from tests.store.skills import CONFIG_TYPE, LAYER_TYPE, commit_skill, put_skill


def test_an_empty_store_is_an_oci_layout(repository):
    path = repository.path
    assert json.loads((path / "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads((path / "index.json").read_text())
    assert index == {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []}
    assert (path / "blobs" / "sha256").is_dir()
    assert repository.skills() == {}
    assert repository.head() is None
    assert list(repository.history()) == []


def test_open_needs_a_store(tmp_path):
    (tmp_path / "file").touch()
    for name in ("nothing", "", "file"):
        with pytest.raises(NoStoreError) as caught:
            Repository.open(tmp_path / name)
        assert caught.value.hint
        assert caught.value.exit_code == 10


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", CorruptStoreError),
        ("[]", CorruptStoreError),
        ("{}", CorruptStoreError),
        ('{"imageLayoutVersion":"2.0.0"}', StoreError),
    ],
)
def test_open_refuses_a_layout_it_does_not_know(repository, text, error):
    (repository.path / "oci-layout").write_text(text)
    with pytest.raises(error):
        Repository.open(repository.path)


def test_create_spares_what_is_there(tmp_path, repository):
    with pytest.raises(StoreError, match="already"):
        Repository.create(repository.path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "model.safetensors").touch()
    for call in (Repository.create, Repository.open_or_create):
        with pytest.raises(StoreError, match=r"model\.safetensors"):
            call(tmp_path / "full")
    assert len(list((tmp_path / "full").iterdir())) == 1


def test_open_or_create_makes_a_store_once(tmp_path):
    first = Repository.open_or_create(tmp_path / "a" / "b")
    commit_skill(first, "math", "one")
    assert list(Repository.open_or_create(str(tmp_path / "a" / "b")).skills()) == ["math"]


def test_a_skill_is_an_oci_manifest(repository):
    skill = repository.put_skill(b"{}", CONFIG_TYPE, [(iter([b"ab", b"c"]), LAYER_TYPE), ([], LAYER_TYPE)])
    data = repository.blobs.read(skill.digest, limit=1000)
    assert json.loads(data) == {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": SKILL_TYPE,
        "config": {"mediaType": CONFIG_TYPE, "digest": digest_of(b"{}"), "size": 2},
        "layers": [
            {"mediaType": LAYER_TYPE, "digest": digest_of(b"abc"), "size": 3},
            {"mediaType": LAYER_TYPE, "digest": digest_of(b""), "size": 0},
        ],
    }
    manifest = repository.skill_manifest(skill.digest)
    assert [layer.size for layer in manifest.layers] == [3, 0]
    assert manifest.config.media_type == CONFIG_TYPE
    assert manifest.size == len(data) + 2 + 3
    assert skill.size == len(data)


def test_the_same_skill_has_the_same_digest_in_every_store(repository, tmp_path):
    other = Repository.create(tmp_path / "other")
    assert put_skill(repository, "x") == put_skill(other, "x") == put_skill(repository, "x")
    assert put_skill(repository, "x") != put_skill(repository, "y")


def test_the_size_of_a_skill_counts_a_shared_blob_once(repository):
    once = repository.put_skill(b"{}", CONFIG_TYPE, [([b"abc"], LAYER_TYPE)])
    twice = repository.put_skill(b"{}", CONFIG_TYPE, [([b"abc"], LAYER_TYPE)] * 2)
    sizes = [repository.skill_manifest(skill.digest).size - skill.size for skill in (once, twice)]
    assert sizes == [5, 5]


def test_media_types_are_checked(repository):
    with pytest.raises(ValueError, match="not a media type"):
        repository.put_skill(b"{}", "json", [])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"schemaVersion":2,"schemaVersion":2}',
        b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json"}',
        (
            b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",'
            b'"artifactType":"application/vnd.skillpack.skill.v1+json","config":{},"layers":[]}'
        ),
        (
            b'{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",'
            b'"artifactType":"application/vnd.skillpack.skill.v1+json","layers":5}'
        ),
    ],
)
def test_what_is_not_a_skill_is_refused_with_its_blob_named(repository, data):
    digest = repository.blobs.put([data]).digest
    for read in (repository.skill_manifest, repository.read_commit, repository.attachment):
        with pytest.raises(CorruptStoreError, match=digest):
            read(digest)
    with pytest.raises(NotFoundError):
        repository.skill_manifest(digest_of(b"not there"))
