from __future__ import annotations

import io
import json
import os
import random
import tarfile

import pytest

from skillpack_store import (
    CorruptStoreError,
    NotFoundError,
    ReportedError,
    Repository,
    StoreError,
    digest_of,
    export_archive,
    import_archive,
    import_referrers,
)
from tests.store.skills import CONFIG_TYPE, LAYER_TYPE, WHO, put_skill

CARD = "application/vnd.skillpack.card.v1"


@pytest.fixture
def other(tmp_path):
    return Repository.create(tmp_path / "other")


@pytest.fixture
def archive(repository, tmp_path):
    """One skill with a card attached."""
    skill = put_skill(repository, "one")
    repository.attach(skill, CARD, [(b"# Math", "text/markdown", "README.md")], {"by": "Ada"})
    export_archive(repository, {"math": skill}, tmp_path / "math.tar")
    return tmp_path / "math.tar"


def unpack(path):
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def pack(path, files):
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def blob(data):
    return f"blobs/sha256/{digest_of(data)[7:]}"


def test_a_skill_goes_through_an_archive(repository, other, archive):
    ((name, skill),) = import_archive(other, archive)
    assert (name, skill) == ("math", put_skill(repository, "one"))
    manifest = other.skill_manifest(skill.digest)
    for part in (manifest.config, *manifest.layers):
        other.blobs.verify(part.digest)
    assert other.branches() == other.tags() == {}
    assert other.referrers(skill.digest) == []
    other.commit("main", lambda skills: {**skills, name: skill}, message="", **WHO)
    assert other.resolve("math").descriptor == skill


def test_attachments_go_through_an_archive_when_asked(repository, other, archive):
    assert import_referrers(other, archive) == []
    ((_, skill),) = import_archive(other, archive)
    taken = import_referrers(other, archive)
    assert other.referrers(skill.digest) == repository.referrers(skill.digest) == taken
    assert other.blobs.read(other.attachment(taken[0].digest).files[0].digest, limit=100) == b"# Math"
    assert import_referrers(other, archive) == taken
    assert len(other.referrers(skill.digest)) == 1


def test_an_archive_is_an_oci_layout_in_a_plain_tar_file(repository, archive):
    files = unpack(archive)
    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads(files["index.json"])
    skill = put_skill(repository, "one")
    names = [entry["annotations"]["org.opencontainers.image.ref.name"] for entry in index["manifests"]]
    assert names == ["math", skill.digest.replace(":", "-")]
    assert index["manifests"][0]["artifactType"] == "application/vnd.skillpack.skill.v1+json"
    for name, data in files.items():
        assert name in {"oci-layout", "index.json"} or name == blob(data)
    with tarfile.open(archive) as tar:
        members = tar.getmembers()
    assert [member.name for member in members] == sorted(files)
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode, m.type) for m in members} == {
        (0, 0, 0, "", "", 0o644, tarfile.REGTYPE)
    }


def test_the_same_skills_give_the_same_archive(repository, archive, tmp_path):
    other = Repository.create(tmp_path / "again")
    skills = {name: put_skill(other, name) for name in ("a", "b", "c")}
    export_archive(other, skills, tmp_path / "1.tar")
    for name in ("c", "a", "b"):
        put_skill(repository, name)
    export_archive(repository, dict(reversed(skills.items())), tmp_path / "2.tar")
    assert (tmp_path / "1.tar").read_bytes() == (tmp_path / "2.tar").read_bytes()


def test_two_names_of_one_skill(repository, other, tmp_path):
    skill = put_skill(repository, "one")
    export_archive(repository, {"math": skill, "maths": skill}, tmp_path / "x.tar")
    assert import_archive(other, tmp_path / "x.tar") == [("math", skill), ("maths", skill)]


def test_export_refuses_damage_and_leaves_the_old_file(repository, archive):
    before = archive.read_bytes()
    skill = put_skill(repository, "one")
    layer = repository.skill_manifest(skill.digest).layers[0]
    path = repository.blobs.path(layer.digest)
    path.chmod(0o644)
    for data in (bytes(layer.size), b"shorter", None):
        path.unlink() if data is None else path.write_bytes(data)
        with pytest.raises(NotFoundError if data is None else CorruptStoreError, match=layer.digest):
            export_archive(repository, {"math": skill}, archive)
        assert archive.read_bytes() == before
        assert not list(archive.parent.glob(".*"))


def test_archives_of_other_programs(repository, other, archive, tmp_path):
    """Another order, folders, a leading ./ and GNU headers are all fine."""
    files = unpack(archive)
    with tarfile.open(tmp_path / "gnu.tar", "w", format=tarfile.GNU_FORMAT) as tar:
        for folder in (".", "./blobs", "./blobs/sha256"):
            info = tarfile.TarInfo(folder)
            info.type = tarfile.DIRTYPE
            tar.addfile(info)
        for name, data in sorted(files.items(), reverse=True):
            info = tarfile.TarInfo(f"./{name}")
            info.size, info.uid, info.mtime = len(data), 1000, 123
            tar.addfile(info, io.BytesIO(data))
    with tarfile.open(tmp_path / "pax.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(data), 123.456
            tar.addfile(info, io.BytesIO(data))
    expected = [("math", put_skill(repository, "one"))]
    assert import_archive(other, tmp_path / "gnu.tar") == expected
    assert import_archive(Repository.create(tmp_path / "third"), tmp_path / "pax.tar") == expected


def test_blobs_that_nothing_names_are_not_stored(other, archive):
    pack(archive, {**unpack(archive), blob(b"junk"): b"junk"})
    import_archive(other, archive)
    assert digest_of(b"junk") not in set(other.blobs)


@pytest.mark.parametrize("damage", [b"", b"x", b"longer"])
def test_every_blob_is_checked(repository, tmp_path, archive, damage):
    files = unpack(archive)
    skill = put_skill(repository, "one")
    manifest = repository.skill_manifest(skill.digest)
    for number, part in enumerate((skill, manifest.config, *manifest.layers)):
        name = f"blobs/sha256/{part.digest[7:]}"
        for change in (files[name][:-1] + b"?", files[name] + damage + b"!", damage, None):
            bad = {key: data if key != name else change for key, data in files.items()}
            bad = {key: data for key, data in bad.items() if data is not None}
            other = Repository.open_or_create(tmp_path / f"other-{number}")
            with pytest.raises(CorruptStoreError, match=part.digest):
                import_archive(other, pack(tmp_path / "bad.tar", bad))
            assert skill.digest not in set(other.blobs)


@pytest.mark.parametrize(
    "name",
    [
        "../escape",
        "/etc/passwd",
        "blobs/sha256/../../../x",
        "refs/heads/main/1",
        "blobs/sha512/" + "a" * 128,
        "x",
        "blobs/sha256/" + "A" * 64,
        "blobs/sha256/" + "a" * 63,
        "blobs/sha256/" + "a" * 64 + "/x",
        "././oci-layout",
        "index.json/",
        "oci-layout\n",
    ],
)
def test_names_without_a_place_are_refused(other, archive, tmp_path, name):
    pack(archive, {**unpack(archive), name: b"hostile"})
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(StoreError, match=r"has no place|changes a name"):
        import_archive(other, archive)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_name_that_is_there_twice_is_refused(other, archive):
    files = unpack(archive)
    pack(archive, {**files, "./index.json": files["index.json"]})
    with pytest.raises(StoreError, match="twice"):
        import_archive(other, archive)


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.GNUTYPE_SPARSE]
)
def test_anything_but_files_and_folders_is_refused(other, archive, kind):
    with tarfile.open(archive, "a") as tar:
        info = tarfile.TarInfo("blobs/sha256/" + "a" * 64)
        info.type, info.linkname = kind, "/etc/passwd"
        tar.addfile(info)
    with pytest.raises(StoreError, match="neither a file nor a folder"):
        import_archive(other, archive)


@pytest.mark.parametrize(
    "headers", [{"path": "../escape"}, {"linkpath": "/etc"}, {"GNU.sparse.major": "1"}, {"a": "b" * 70_000}]
)
def test_extended_headers_that_change_what_a_file_is(other, archive, headers):
    with tarfile.open(archive, "w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("oci-layout")
        info.pax_headers = headers
        tar.addfile(info)
    with pytest.raises(StoreError, match="extended header"):
        import_archive(other, archive)


def test_a_size_in_an_extended_header_counts(other, archive, tmp_path):
    """Written by programs for files of 8 GiB and more; the size in the plain header is then not valid."""
    from skillpack_store.tar import read_members

    data = b"x" * 700
    record = b"12 size=700\n"
    extended = tarfile.TarInfo("pax")
    extended.type, extended.size = tarfile.XHDTYPE, len(record)
    plain = tarfile.TarInfo("file")
    content = extended.tobuf(tarfile.USTAR_FORMAT) + record + bytes(500) + plain.tobuf(tarfile.USTAR_FORMAT)
    content += data + bytes(324 + 1024)
    assert [tuple(member) for member in read_members(io.BytesIO(content), len(content))] == [("file", 1536, 700)]
    large = tarfile.TarInfo("file")
    large.size = 1 << 80
    header = large.tobuf(tarfile.GNU_FORMAT)
    with pytest.raises(ValueError, match="cut off"):
        read_members(io.BytesIO(header), len(header))


def test_a_damaged_header_is_refused(other, archive):
    data = bytearray(archive.read_bytes())
    data[100] ^= 1
    archive.write_bytes(data)
    with pytest.raises(StoreError, match="not a tar file"):
        import_archive(other, archive)


def index_with(archive, **changes):
    files = unpack(archive)
    index = json.loads(files["index.json"])
    index["manifests"][0].update(changes)
    return pack(archive, {**files, "index.json": json.dumps(index).encode()})


@pytest.mark.parametrize(
    "changes",
    [
        {"digest": "sha256:" + "0" * 64},
        {"digest": "../x"},
        {"size": 5},
        {"size": -1},
        {"size": 1 << 62},
        {"annotations": {}},
        {"annotations": {"org.skillpack.name": "../x"}},
        {"annotations": {"org.skillpack.name": 5}},
        {"artifactType": "application/vnd.other"},
        {"artifactType": 5},
    ],
)
def test_an_index_that_lies_is_refused(other, archive, changes):
    with pytest.raises(StoreError):
        import_archive(other, index_with(archive, **changes))
    assert list(other.blobs) == []


def test_an_index_that_says_less_is_enough(other, archive):
    """As skopeo writes it: without artifactType, and with the reference name only."""
    files = unpack(archive)
    (skill, _) = json.loads(files["index.json"])["manifests"]
    del skill["artifactType"]
    skill["annotations"] = {"org.opencontainers.image.ref.name": "calculus"}
    image = json.dumps(
        {"schemaVersion": 2, "mediaType": skill["mediaType"], "config": {}, "layers": [], "annotations": {}}
    ).encode()
    beside = {"mediaType": skill["mediaType"], "digest": digest_of(image), "size": len(image)}
    index = {"schemaVersion": 2, "manifests": [beside, skill]}
    pack(archive, {**files, blob(image): image, "index.json": json.dumps(index).encode()})
    assert [(name, found.digest) for name, found in import_archive(other, archive)] == [("calculus", skill["digest"])]
    assert digest_of(image) not in set(other.blobs)


def test_a_skill_without_our_annotation_has_its_reference_name(other, archive):
    index_with(archive, annotations={"org.opencontainers.image.ref.name": "calculus"})
    assert import_archive(other, archive)[0][0] == "calculus"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("index.json", b"[]"),
        ("index.json", b"{"),
        ("index.json", b'{"manifests":[],"manifests":[]}'),
        ("index.json", b'{"manifests":{}}'),
        ("index.json", b" " * (5 << 20)),
        ("index.json", b"[" * 50_000),
        ("oci-layout", b'{"imageLayoutVersion":"9"}'),
        ("oci-layout", b""),
        ("index.json", None),
        ("oci-layout", None),
    ],
)
def test_layouts_that_are_refused(other, archive, name, content):
    files = unpack(archive) | {name: content}
    pack(archive, {key: data for key, data in files.items() if data is not None})
    with pytest.raises(StoreError, match="not an archive of skills"):
        import_archive(other, archive)


def test_a_manifest_of_something_else_is_refused(repository, other, tmp_path):
    config = repository.blobs.put([b"{}"])
    container = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "layers": [],
            "config": {"mediaType": CONFIG_TYPE, "digest": config.digest, "size": 2},
        }
    ).encode()
    entry = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "digest": digest_of(container),
        "artifactType": "application/vnd.skillpack.skill.v1+json",
        "size": len(container),
        "annotations": {"org.skillpack.name": "math"},
    }
    files = {
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        blob(container): container,
        blob(b"{}"): b"{}",
        "index.json": json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode(),
    }
    with pytest.raises(CorruptStoreError, match="artifactType"):
        import_archive(other, pack(tmp_path / "x.tar", files))


@pytest.mark.parametrize(
    "content", [b"", b"not a tar file", bytes(300), b"\x1f\x8b" + bytes(2000), b"PK\x03\x04" * 500]
)
def test_what_is_not_an_archive(other, tmp_path, content):
    (tmp_path / "x.tar").write_bytes(content)
    with pytest.raises(StoreError, match="not an archive of skills"):
        import_archive(other, tmp_path / "x.tar")
    with pytest.raises(NotFoundError, match="no archive"):
        import_archive(other, tmp_path / "missing.tar")


def test_an_archive_without_skills(repository, other, tmp_path):
    export_archive(repository, {}, tmp_path / "x.tar")
    with pytest.raises(StoreError, match="no skill"):
        import_archive(other, tmp_path / "x.tar")


def test_a_cut_archive_is_refused_at_every_length(other, archive, tmp_path):
    whole = archive.read_bytes()
    cut = tmp_path / "cut.tar"
    # Without the second of the two closing blocks an archive still has all its content.
    for length in range(0, len(whole) - 1024, 173):
        cut.write_bytes(whole[:length])
        with pytest.raises(StoreError):
            import_archive(other, cut)
    assert list(other.blobs) == []


def test_random_damage_causes_an_error_or_nothing(repository, other, archive, tmp_path):
    whole = archive.read_bytes()
    expected = import_archive(Repository.create(tmp_path / "third"), archive)
    chance = random.Random(5)
    outcomes = set()
    for _ in range(100):
        data = bytearray(whole)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        (tmp_path / "bad.tar").write_bytes(data)
        try:
            found = import_archive(other, tmp_path / "bad.tar")
            import_referrers(other, tmp_path / "bad.tar")
        except ReportedError:
            outcomes.add("refused")
        else:
            outcomes.add("taken")
            assert [skill for _, skill in found] == [skill for _, skill in expected]
        for digest in other.blobs:
            other.blobs.verify(digest)
    assert outcomes == {"refused", "taken"}
    assert sorted(path.name for path in other.path.iterdir()) == ["blobs", "index.json", "oci-layout", "refs"]


def test_large_layers_are_streamed(repository, other, tmp_path):
    chunk = os.urandom(1 << 20)
    skill = repository.put_skill(b"{}", CONFIG_TYPE, [((chunk for _ in range(5)), LAYER_TYPE)])
    export_archive(repository, {"math": skill}, tmp_path / "x.tar")
    assert import_archive(other, tmp_path / "x.tar") == [("math", skill)]
    with tarfile.open(tmp_path / "x.tar") as tar:
        assert sum(member.size == 5 << 20 for member in tar) == 1
