from __future__ import annotations

import os
import stat

import pytest

from skillpack_store import CorruptStoreError, NotFoundError, StoreError, digest_of
from skillpack_store.blobs import BlobStore


@pytest.fixture
def blobs(tmp_path):
    return BlobStore(tmp_path / "blobs" / "sha256")


def damage(blobs, digest, data):
    path = blobs.path(digest)
    path.chmod(0o644)
    path.write_bytes(data)
    path.chmod(0o444)


def test_put_writes_the_content_under_its_digest_read_only(blobs):
    blob = blobs.put([b"hello ", b"world"])
    assert blob == (digest_of(b"hello world"), 11)
    assert blobs.read(blob.digest, limit=11) == b"hello world"
    with blobs.open(blob.digest) as file:
        assert file.read() == b"hello world"
    assert blobs.size(blob.digest) == 11
    assert blobs.has(blob.digest)
    assert list(blobs) == [blob.digest]
    assert stat.S_IMODE(blobs.path(blob.digest).stat().st_mode) == 0o444
    assert [path.name for path in blobs.folder.iterdir()] == [blob.digest[7:]]


def test_put_keeps_nothing_that_is_not_what_was_announced(blobs):
    with pytest.raises(CorruptStoreError, match="arrived damaged"):
        blobs.put([b"something else"], expect=digest_of(b"announced"))
    assert list(blobs.folder.iterdir()) == []
    blobs.put([b"announced"], expect=digest_of(b"announced"))


def test_put_of_an_intact_blob_refreshes_its_time_and_does_not_rewrite(blobs):
    digest = blobs.put([b"x"]).digest
    os.utime(blobs.path(digest), (1, 1))
    before = blobs.path(digest).stat()
    blobs.put([b"x"])
    after = blobs.path(digest).stat()
    assert after.st_ino == before.st_ino
    assert after.st_mtime > 1e9
    assert len(list(blobs.folder.iterdir())) == 1


@pytest.mark.parametrize("data", [b"", b"longer than it was", b"y"])
def test_put_repairs_a_damaged_blob_of_any_size(blobs, data):
    digest = blobs.put([b"x"]).digest
    damage(blobs, digest, data)
    blobs.put([b"x"])
    blobs.verify(digest)


def test_put_takes_the_place_of_a_link(blobs, tmp_path):
    digest = blobs.put([b"x"]).digest
    (tmp_path / "outside").write_bytes(b"x")
    blobs.path(digest).unlink()
    blobs.path(digest).symlink_to(tmp_path / "outside")
    assert not blobs.has(digest)
    blobs.put([b"x"])
    assert not blobs.path(digest).is_symlink()
    assert stat.S_IMODE((tmp_path / "outside").stat().st_mode) != 0o444


@pytest.mark.parametrize("data", [b"", b"hellO", b"hello and more"])
def test_damage_is_found_by_whoever_reads(blobs, data):
    digest = blobs.put([b"hello"]).digest
    damage(blobs, digest, data)
    for read in (blobs.verify, lambda d: blobs.read(d, limit=100), lambda d: list(blobs.stream(d))):
        with pytest.raises(CorruptStoreError) as caught:
            read(digest)
        assert digest in caught.value.message
        assert str(blobs.path(digest)) in caught.value.message


def test_read_has_a_limit(blobs):
    digest = blobs.put([b"hello"]).digest
    with pytest.raises(StoreError, match="more than the 4 bytes"):
        blobs.read(digest, limit=4)


def test_what_is_not_there(blobs):
    digest = digest_of(b"nothing")
    assert not blobs.has(digest)
    assert list(blobs) == []
    for call in (blobs.open, blobs.size, blobs.verify):
        with pytest.raises(NotFoundError, match=digest):
            call(digest)


def test_no_name_leaves_the_folder(blobs):
    for name in ("sha256:../../x", "../x", "sha256:" + "A" * 64, ""):
        with pytest.raises(ValueError, match="not a digest"):
            blobs.path(name)


def test_iteration_passes_over_files_that_are_not_blobs(blobs):
    digest = blobs.put([b"x"]).digest
    for name in (".blob.1234.tmp", "README", "A" * 64, digest[7:] + ".bak"):
        (blobs.folder / name).touch()
    assert list(blobs) == [digest]


def test_a_failing_source_leaves_nothing(blobs):
    def chunks():
        yield b"some"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        blobs.put(chunks())
    assert list(blobs.folder.iterdir()) == []
