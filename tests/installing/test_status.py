"""What status tells."""

from __future__ import annotations

from skillpack.installing import install, remove, status
from skillpack.installing.receipt import Receipt, safe_path
from tests.installing.models import whole


def test_a_folder_without_skills(model):
    before = whole(model)
    found = status(model, verify=True)
    assert not found.managed
    assert (found.skills, found.differences, found.unfinished) == ((), (), False)
    assert whole(model) == before


def test_what_is_installed(shelf, model):
    install([shelf.skills["math"], shelf.skills["code"]._replace(weight=0.5)], model)
    before = whole(model)
    found = status(model)
    assert [record.digest for record in found.skills] == sorted(record.digest for record in found.skills)
    assert {(record.name, record.label, record.weight) for record in found.skills} == {
        ("math", "math@1", 1.0),
        ("code", "code@1", 0.5),
    }
    assert found.written_bytes == sum((model / path).stat().st_size for path, _ in found.written)
    assert found.kept_bytes == sum((model / found.kept_in / path).stat().st_size for path, _ in found.originals)
    assert dict(found.written).keys() == dict(found.originals).keys()
    assert found.base_fingerprint == shelf.skills["math"].skill.manifest.base_fingerprint
    assert not found.verified
    assert whole(model) == before


def test_verify_hashes_every_file_and_every_skill(shelf, model):
    install([shelf.skills["math"], shelf.skills["chat"]], model)
    seen = []
    assert not status(model, verify=True, progress=lambda done, total, what: seen.append((done, total))).differences
    assert seen[-1][0] == seen[-1][1] > 0
    blob = model / ".skillpack/.cache/huggingface/skills/blobs/sha256" / shelf.skills["math"].skill.digest[7:]
    blob.unlink()
    (model / "tokenizer.json").unlink()
    found = [(difference.path, difference.problem) for difference in status(model, verify=True).differences]
    assert found == [("tokenizer.json", "missing"), ("math", "damaged skill")]


def test_a_receipt_is_read_as_it_was_written(shelf, model):
    install([shelf.skills["math"]], model)
    path = model / ".skillpack/.cache/huggingface/receipt.json"
    receipt = Receipt.load(path.read_bytes(), path)
    assert receipt.dump() == path.read_bytes()
    remove(None, model)


def test_paths_in_receipts_stay_within_the_folder():
    import pytest

    for path in ("../x", "/x", "a/../x", "./x", "a//x", "", ".", "a\\b", ".skillpack/x", ".SkillPack/x", "a\n", 3):
        with pytest.raises(ValueError, match="not a path within"):
            safe_path(path)
