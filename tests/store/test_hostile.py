"""A store, an archive or a document that somebody made to do harm: each way has an error that says what it is."""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
import threading
import time

import pytest

from skillpack_store import (
    CorruptStoreError,
    NotFoundError,
    Repository,
    StoreError,
    canonical_json,
    check_skill_name,
    digest_of,
    disk,
    import_archive,
    import_referrers,
    parse_address,
    parse_json,
)
from skillpack_store import archive as archive_module
from skillpack_store.documents import INDEX, MANIFEST, SKILL_TYPE, Attachment, Commit, SkillManifest, build_index
from skillpack_store.refs import check_ref
from tests.store.skills import CONFIG_TYPE, LAYER_TYPE, commit_skill, put_skill


@pytest.fixture
def outside(tmp_path):
    """A folder of somebody else's, which must stay as it is."""
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "precious").write_bytes(b"precious")
    return folder


def unharmed(outside):
    return {path.name: path.read_bytes() for path in outside.iterdir()} == {"precious": b"precious"}


def within(seconds, work):
    """Run work that must come to an end, which a read from a pipe would not."""
    done = []
    thread = threading.Thread(target=lambda: done.append(work()), daemon=True)
    thread.start()
    thread.join(seconds)
    assert done, "it waits for ever"
    return done[0]


# Links and special files.


@pytest.mark.parametrize("part", ["blobs", "blobs/sha256", "refs"])
def test_a_folder_of_a_store_that_is_a_link(part, repository, outside):
    commit_skill(repository, "math", "one")
    (repository.path / part).rename(repository.path / "moved")
    (repository.path / part).symlink_to(outside)
    with pytest.raises(CorruptStoreError, match=f"{part} is a link to somewhere else") as caught:
        Repository.open(repository.path)
    assert "mount" in caught.value.hint
    assert unharmed(outside)


@pytest.mark.parametrize("part", ["blobs", "refs"])
def test_a_folder_that_is_a_link_before_there_is_a_store(part, tmp_path, outside):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / part).symlink_to(outside)
    for make in (Repository.create, Repository.open_or_create):
        with pytest.raises(CorruptStoreError, match=f"{part} is a link to somewhere else"):
            make(tmp_path / "new")
    assert unharmed(outside)


@pytest.mark.parametrize("part", ["heads", "tags", "heads/main", "tags/v1"])
def test_a_ref_that_is_a_link_to_a_folder(part, repository, outside):
    commit = commit_skill(repository, "math", "one")
    repository.tag("v1", commit)
    (repository.path / "refs" / part).rename(repository.path / "moved")
    (repository.path / "refs" / part).symlink_to(outside)
    opened = Repository.open(repository.path)
    kind = part.partition("/")[0]
    name = "tags/v1" if kind == "tags" else "heads/main"
    for work in (
        lambda: opened.refs.read(name),
        lambda: opened.refs.log(name),
        lambda: opened.refs.list(kind),
        lambda: opened.refs.update(name, digest_of(b""), expected=None),
    ):
        with pytest.raises(CorruptStoreError, match="is a link to somewhere else"):
            work()
    assert unharmed(outside)


@pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
def test_an_entry_of_a_ref_that_is_no_file(kind, repository, outside):
    commit = commit_skill(repository, "math", "one")
    path = repository.path / "refs" / "heads" / "main" / "2"
    if kind == "link":
        (outside / "precious").write_bytes(canonical_json({"digest": commit.digest, "time": ""}))
        path.symlink_to(outside / "precious")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.mkdir()

    def read():
        with pytest.raises(CorruptStoreError, match="main/2 is not a regular file"):
            repository.head()
        return True

    assert within(10, read)


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_blob_that_is_no_file(kind, repository, tmp_path):
    digest = repository.blobs.put([b"hello"]).digest
    path = repository.blobs.path(digest)
    path.unlink()
    if kind == "link":
        (tmp_path / "hello").write_bytes(b"hello")
        path.symlink_to(tmp_path / "hello")
    else:
        os.mkfifo(path)
    for read in (repository.blobs.open, repository.blobs.verify, lambda digest: repository.blobs.read(digest, limit=9)):

        def refused(read=read):
            with pytest.raises(NotFoundError, match=digest):
                read(digest)
            return True

        assert within(10, refused)
    repository.blobs.put([b"hello"])
    repository.blobs.verify(digest)


@pytest.mark.parametrize("kind", ["link", "pipe", "endless"])
def test_an_index_that_is_no_file_is_written_anew(kind, repository, outside):
    path = repository.path / "index.json"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(outside / "precious" if kind == "link" else "/dev/zero")
    assert within(10, lambda: commit_skill(repository, "math", "one"))
    assert not path.is_symlink()
    assert len(json.loads(path.read_bytes())["manifests"]) == 1
    assert unharmed(outside)


@pytest.mark.parametrize("kind", ["link", "pipe", "endless"])
def test_a_mark_of_a_store_that_is_no_file(kind, repository, outside):
    path = repository.path / "oci-layout"
    path.rename(outside / "layout")
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(outside / "layout" if kind == "link" else "/dev/zero")

    def opened():
        with pytest.raises(CorruptStoreError, match="oci-layout is not a regular file"):
            Repository.open(repository.path)
        return True

    assert within(10, opened)


def test_a_folder_that_is_removed_and_is_a_link(tmp_path, outside):
    (tmp_path / "link").symlink_to(outside)
    disk.remove_tree(tmp_path / "link")
    assert not (tmp_path / "link").is_symlink()
    assert unharmed(outside)


# Digest and media-type confusion.


def test_every_kind_of_document_where_another_is_expected(repository):
    skill = put_skill(repository, "one")
    commit = repository.commit("main", lambda _: {"math": skill}, author="", message="", tools={})
    attached = repository.attach(skill, "application/vnd.a", [(b"x", "text/plain", "x")])
    (listing,) = repository.refs.list("referrers").values()
    config = repository.skill_manifest(skill.digest).config
    documents = {"skill": skill.digest, "commit": commit.digest, "attachment": attached.digest, "list": listing.digest}
    readers = {
        "skill": repository.skill_manifest,
        "commit": repository.read_commit,
        "attachment": repository.attachment,
    }
    for what, read in readers.items():
        for other, digest in {**documents, "config": config.digest}.items():
            if what == other:
                read(digest)
                continue
            with pytest.raises(
                CorruptStoreError, match=r"mediaType|artifactType|config of an attachment|schema version"
            ):
                read(digest)


def test_a_commit_whose_skill_is_a_commit(repository):
    inner = commit_skill(repository, "math", "one")
    size = repository.blobs.size(inner.digest)
    skill = {"mediaType": MANIFEST, "digest": inner.digest, "size": size, "annotations": {"org.skillpack.name": "math"}}
    document = json.loads(repository.blobs.read(inner.digest, limit=1 << 20))
    outer = repository.blobs.put([canonical_json({**document, "manifests": [skill]})])
    repository.refs.update("heads/evil", outer.digest, expected=None)
    found = repository.resolve("math", "evil")
    expected = re.escape(f"its mediaType is '{INDEX}', expected was {MANIFEST}")
    with pytest.raises(CorruptStoreError, match=expected):
        repository.skill_manifest(found.descriptor.digest)
    with pytest.raises(CorruptStoreError, match="cannot be used"):
        repository.commit("main", lambda _: {"math": found.descriptor}, author="", message="", tools={})


def test_a_skill_that_announces_other_sizes(repository):
    skill = put_skill(repository, "one")
    document = json.loads(repository.blobs.read(skill.digest, limit=1 << 20))
    document["layers"][0]["size"] = 3
    lying = repository.blobs.put([canonical_json(document)])
    descriptor = type(skill)(lying.digest, lying.size, MANIFEST, SKILL_TYPE)
    with pytest.raises(CorruptStoreError, match="3 were expected"):
        repository.commit("main", lambda _: {"math": descriptor}, author="", message="", tools={})


def test_a_ref_to_what_is_no_commit(repository):
    skill = put_skill(repository, "one")
    repository.refs.update("heads/main", skill.digest, expected=None)
    with pytest.raises(CorruptStoreError, match="cannot be used: its mediaType"):
        repository.skills()


# Documents: sizes, counts, nesting, names, keys.

BASE = {"schemaVersion": 2, "mediaType": MANIFEST, "artifactType": SKILL_TYPE}
BLOB = {"mediaType": "a/b", "digest": digest_of(b""), "size": 0}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a":' * 2000 + b"1" + b"}" * 2000, "nested too deeply"),
        (b"[" * 10**6, "nested too deeply"),
        (b"[" + b"9" * 41 + b"]", "too long"),
        (b"[1e400]", "too large"),
        (b"[NaN]", "not a number that JSON has"),
        (b'{"a":1,"a":2}', "there twice"),
        (b'{"a":1,"\\u0061":2}', "there twice"),
        (b'["\\ud800"]', "surrogates not allowed"),
        (b"\xef\xbb\xbf{}", "BOM|Expecting value"),
        (b"\xff\xfe{\0}\0", "decode"),
        (b"{}" + b" " * (4 << 20), "more than the 4194304"),
        (b"[" + b"[]," * (4 << 20) + b"1]", "more than the"),
    ],
)
def test_json_that_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        parse_json(data)


def test_a_crowd_of_values_is_refused_before_it_takes_memory():
    data = b"[" + b"[]," * (9 << 20) + b"1]"
    started = time.perf_counter()
    with pytest.raises(ValueError, match="more than 8388608 values"):
        parse_json(data, limit=1 << 30)
    assert time.perf_counter() - started < 5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": -1}, "number of bytes"),
        ({"size": 1 << 63}, "number of bytes"),
        ({"size": 1.0}, "number of bytes"),
        ({"size": True}, "number of bytes"),
        ({"digest": "sha256:" + "../" * 21 + "a"}, "not a digest"),
        ({"digest": "sha512:" + "0" * 128}, "not a digest"),
        ({"digest": "SHA256:" + "0" * 64}, "not a digest"),
        ({"digest": "sha256:" + "0" * 63 + "\uff10"}, "not a digest"),
        ({"digest": digest_of(b"") + "\n"}, "not a digest"),
        ({"mediaType": "a/b\n"}, "not a media type"),
        ({"mediaType": "a" * 200 + "/b"}, "not a media type"),
        ({"annotations": {"a": 1}}, "annotations must map text to text"),
        ({"annotations": []}, "annotations must map text to text"),
    ],
)
def test_descriptors_that_are_refused(change, message):
    for config, layers in ((BLOB | change, []), (BLOB, [BLOB | change])):
        with pytest.raises(ValueError, match=message):
            SkillManifest.parse(canonical_json({**BASE, "config": config, "layers": layers}))


TRICKS = [
    "../math", "/math", "math/../code", "ma\\th", "math\0", "math\n", ".math", "math.", "ma..th", "-math", "Math",
    "m\u0430th", "ma\u200bth", "math\u202e", "mat\u0301h", "\uff4dath", "math\u2024x", "\u212aelvin", "\u0660", "123",
    "",
]  # fmt: skip


@pytest.mark.parametrize("name", TRICKS)
def test_names_that_are_none(name):
    with pytest.raises(StoreError, match="cannot be the name of a skill"):
        check_skill_name(name)
    with pytest.raises(StoreError):
        parse_address(name)
    document = {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "artifactType": "application/vnd.skillpack.library.v1+json",
        "manifests": [{**BLOB, "annotations": {"org.skillpack.name": name}}],
    }
    with pytest.raises(ValueError, match="cannot be the name of a skill"):
        Commit.parse(json.dumps(document).encode())


@pytest.mark.parametrize(
    "name", [*(trick for trick in TRICKS if trick != "Math"), "HEAD", "head", "con", "NUL.txt", "Com1", "x" * 101]
)
def test_names_of_refs_that_are_none(name, repository):
    with pytest.raises(StoreError, match="cannot be the name of a branch or tag"):
        check_ref(name)
    with pytest.raises(StoreError, match="cannot be the name of a branch or tag"):
        repository.refs.update(f"heads/{name}", digest_of(b""), expected=None)


def test_folders_with_names_that_no_ref_has_are_not_listed(repository):
    for name in ("..main", "m\u0430in", "CON", "-x"):
        (repository.path / "refs" / "heads" / name).mkdir()
    assert repository.branches() == {}


def test_numbers_of_entries_that_are_none(repository):
    commit = commit_skill(repository, "math", "one")
    folder = repository.path / "refs" / "heads" / "main"
    for name in ("0", "01", "-1", "9999999999", "\u0662", "2 ", "2.tmp"):
        (folder / name).write_bytes(canonical_json({"digest": digest_of(b""), "time": ""}))
    assert repository.head() == commit


def test_a_ref_whose_numbers_are_used_up(repository):
    commit = commit_skill(repository, "math", "one")
    folder = repository.path / "refs" / "heads" / "main"
    (folder / "999999999").write_bytes(canonical_json({"digest": commit.digest, "time": ""}))
    assert repository.head() == commit


def test_an_attachment_of_something_else_is_not_taken_for_one_of_a_skill(repository):
    skill, other = put_skill(repository, "one"), put_skill(repository, "other")
    attached = repository.attach(other, "application/vnd.a", [])
    assert Attachment.parse(repository.blobs.read(attached.digest, limit=1 << 20)).subject.digest == other.digest
    assert repository.referrers(skill.digest) == []


# Archives.


def tar(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as made:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def blob(data):
    return f"blobs/sha256/{digest_of(data)[7:]}"


def skills_archive(count, padding):
    """An archive of skills whose manifests are long."""
    config = b"{}"
    files, entries = {blob(config): config}, []
    described = {"mediaType": CONFIG_TYPE, "digest": digest_of(config), "size": 2}
    for number in range(count):
        text = {"note": f"{number}" + "x" * padding}
        data = canonical_json({**BASE, "config": described, "layers": [], "annotations": text})
        files[blob(data)] = data
        name = {"org.skillpack.name": f"s{number}"}
        entries.append({"mediaType": MANIFEST, "digest": digest_of(data), "size": len(data), "annotations": name})
    return tar({**files, "index.json": build_index(entries), "oci-layout": b'{"imageLayoutVersion":"1.0.0"}'})


def test_an_archive_whose_documents_do_not_fit_into_memory(repository, tmp_path, monkeypatch):
    monkeypatch.setattr(archive_module, "_DOCUMENTS_LIMIT", 100_000)
    (tmp_path / "few.tar").write_bytes(skills_archive(2, 40_000))
    assert len(import_archive(repository, tmp_path / "few.tar")) == 2
    (tmp_path / "many.tar").write_bytes(skills_archive(3, 40_000))
    before = set(repository.blobs)
    with pytest.raises(CorruptStoreError, match="documents have more than 100000 bytes together"):
        import_archive(repository, tmp_path / "many.tar")
    assert set(repository.blobs) == before


def test_an_index_that_names_one_document_many_times_reads_it_once(repository, tmp_path, monkeypatch):
    monkeypatch.setattr(archive_module, "_DOCUMENTS_LIMIT", 5_000)
    config = b"{}"
    described = {"mediaType": CONFIG_TYPE, "digest": digest_of(config), "size": 2}
    data = canonical_json({**BASE, "config": described, "layers": [], "annotations": {"note": "x" * 1000}})
    entry = {"mediaType": MANIFEST, "digest": digest_of(data), "size": len(data)}
    entries = [{**entry, "annotations": {"org.skillpack.name": f"s{number}"}} for number in range(1000)]
    files = {blob(config): config, blob(data): data, "index.json": build_index(entries)}
    (tmp_path / "a.tar").write_bytes(tar({**files, "oci-layout": b'{"imageLayoutVersion":"1.0.0"}'}))
    assert len(import_archive(repository, tmp_path / "a.tar")) == 1000


@pytest.mark.parametrize("size", [1 << 40, (1 << 63) - 1, 10**18])
def test_a_file_in_an_archive_that_announces_more_than_there_is(size, repository, tmp_path):
    info = tarfile.TarInfo("index.json")
    info.size = size
    (tmp_path / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(StoreError, match="it is cut off"):
        import_archive(repository, tmp_path / "a.tar")


def test_an_archive_of_attachments_for_what_is_not_there(repository, tmp_path):
    other = Repository.create(tmp_path / "other")
    skill = put_skill(other, "one")
    attached = other.attach(skill, "application/vnd.a", [(b"x", "text/plain", "x")])
    from skillpack_store import export_archive

    export_archive(other, {"math": skill}, tmp_path / "a.tar")
    assert import_referrers(repository, tmp_path / "a.tar") == []
    assert not repository.blobs.has(attached.digest)
    assert repository.refs.list("referrers") == {}


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_an_archive_with_a_link_or_a_device(kind, repository, tmp_path, outside):
    info = tarfile.TarInfo("blobs/sha256/" + "0" * 64)
    info.type, info.linkname = kind, str(outside / "precious")
    (tmp_path / "a.tar").write_bytes(info.tobuf() + bytes(1024))
    with pytest.raises(StoreError, match="neither a file nor a folder"):
        import_archive(repository, tmp_path / "a.tar")
    assert unharmed(outside)


def test_a_blob_that_was_changed_at_rest_is_never_returned(repository):
    skill = put_skill(repository, "one")
    manifest = repository.skill_manifest(skill.digest)
    for digest in (skill.digest, manifest.config.digest, manifest.layers[0].digest):
        path = repository.blobs.path(digest)
        content = path.read_bytes()
        path.chmod(0o644)
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(CorruptStoreError, match=f"Blob {digest} is damaged"):
            repository.blobs.read(digest, limit=1 << 20)
        path.write_bytes(content)
    assert manifest.layers[0].media_type == LAYER_TYPE
