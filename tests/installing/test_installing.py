"""Installing in place, replacing and removing."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from skillpack.checkpoint import open_checkpoint
from skillpack.errors import ConflictError, NotFoundError
from skillpack.installing import install, remove, status
from skillpack.tensors import Tensor
from tests.installing import models
from tests.installing.models import digests, model_files, tensors_of, whole

INDEX = "model.safetensors.index.json"
FIRST, SECOND = models.SHARDS


def test_an_exact_skill_gives_the_fine_tune_and_its_removal_the_base(shelf, model):
    before = whole(model)
    report = install([shelf.skills["math"]], model)
    assert tensors_of(model) == digests(shelf.tuned["math"])
    assert report.written == (FIRST, SECOND, INDEX)
    assert report.nbytes == sum((model / path).stat().st_size for path in report.written)
    assert status(model).skills == report.skills
    assert [record.label for record in report.skills] == ["math@1"]
    report = remove("math", model)
    assert report.restored == (FIRST, SECOND, INDEX)
    assert whole(model) == before


def test_files_that_do_not_change_stay_as_they_are(shelf, model):
    before = {path: (model / path).stat() for path in model_files(model)}
    install([shelf.skills["chat"]], model)
    after = {path: (model / path).stat() for path in model_files(model)}
    same = {path for path in before if os.path.samestat(before[path], after[path])}
    assert same == {FIRST, "README.md", "config.json"}
    remove(None, model)
    for path, status_before in before.items():
        assert os.path.samestat((model / path).stat(), status_before)
        assert (model / path).stat().st_mtime_ns == status_before.st_mtime_ns


def test_files_are_changed_and_changed_back(shelf, model):
    install([shelf.skills["code"], shelf.skills["chat"]], model)
    assert json.loads((model / "config.json").read_text()) == {**models.CONFIG, "use_cache": False}
    assert json.loads((model / "tokenizer.json").read_text())["added_tokens"] == [{"id": 2, "content": "<x>"}]
    remove(["chat"], model)
    assert (model / "tokenizer.json").read_bytes() == (shelf.base / "tokenizer.json").read_bytes()
    assert not json.loads((model / "config.json").read_text())["use_cache"]


def test_two_skills_sum_and_one_of_them_goes(shelf, model, tmp_path):
    install([shelf.skills["math"], shelf.skills["code"]._replace(weight=0.5)], model)
    base, math, code = (
        tensors["layers.0.up.weight"] for tensors in (shelf.tensors, *map(shelf.tuned.get, ("math", "code")))
    )
    deltas = {
        shelf.skills["math"].skill.digest: math.float32() - base.float32(),
        shelf.skills["code"].skill.digest: np.float32(0.5) * (code.float32() - base.float32()),
    }
    total = base.float32().copy()
    for digest in sorted(deltas):
        total += deltas[digest]
    assert tensors_of(model)["layers.0.up.weight"] == Tensor.from_float32(total, "BF16").digest()
    remove(["code"], model)
    assert tensors_of(model) == digests(shelf.tuned["math"])


def test_removing_needs_no_store(shelf, tmp_path):
    base = models.write_model(tmp_path / "base", shelf.tensors)
    before = whole(base)
    skills = [
        models.make_skill(tmp_path / "store", base, shelf.tuned[name], name, exact=True) for name in ("math", "chat")
    ]
    install(skills, base)
    import shutil

    shutil.rmtree(tmp_path / "store")
    remove(["chat"], base)
    assert tensors_of(base) == digests(shelf.tuned["math"])
    remove([skills[0].skill.digest[:20]], base)
    assert whole(base) == before


def test_another_version_or_weight_replaces_in_one_step(shelf, model):
    install([shelf.skills["math"]], model)
    newer = models.wanted(shelf.store, shelf.skills["chat"].skill.digest, "math")
    report = install([newer], model)
    assert report.replaced == ("math",)
    assert tensors_of(model) == digests(shelf.tuned["chat"])
    install([newer._replace(skill=shelf.skills["math"].skill, weight=0.5)], model)
    assert [(record.name, record.weight) for record in status(model).skills] == [("math", 0.5)]
    kept = list((model / ".skillpack/.cache/huggingface/skills/blobs/sha256").iterdir())
    assert shelf.skills["chat"].skill.digest[7:] not in {path.name for path in kept}


def test_one_file_models(shelf, tmp_path):
    model = models.write_model(tmp_path / "model", shelf.tensors, sharded=False)
    before = whole(model)
    install([shelf.skills["prose"]], model)
    assert set(whole(model)) - set(before) == {path for path in whole(model) if path.startswith(".skillpack")}
    remove(None, model)
    assert whole(model) == before


def test_a_written_file_is_what_safetensors_writes_for_the_fine_tune(shelf, tmp_path):
    model = models.write_model(tmp_path / "model", shelf.tensors, sharded=False)
    install([shelf.skills["math"]], model)
    models.write_weights(tmp_path / "tuned.safetensors", shelf.tuned["math"])
    assert (model / "model.safetensors").read_bytes() == (tmp_path / "tuned.safetensors").read_bytes()
    (tmp_path / "tuned.safetensors").chmod(0o600)


def test_permissions_of_the_original_are_kept(shelf, model):
    (model / SECOND).chmod(0o640)
    install([shelf.skills["chat"]], model)
    assert (model / SECOND).stat().st_mode & 0o777 == 0o640


def test_new_tensors_go_to_the_last_shard_and_gone_ones_leave(shelf, model, tmp_path):
    tuned = {name: tensor for name, tensor in shelf.tensors.items() if name != "steps"}
    tuned["score.weight"] = Tensor.from_float32(np.ones((2, 8), np.float32), "F32")
    skill = models.make_skill(tmp_path / "store", shelf.base, tuned, "judge")
    before = whole(model)
    install([skill], model)
    assert tensors_of(model) == digests(tuned)
    index = json.loads((model / INDEX).read_text())
    assert index["weight_map"]["score.weight"] == SECOND
    assert "steps" not in index["weight_map"]
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in tuned.values())
    assert (model / FIRST).stat().st_nlink == 1
    remove(None, model)
    assert whole(model) == before
    with pytest.raises(ConflictError, match=r"judge cannot have weight 0\.5: tensor steps"):
        install([skill._replace(weight=0.5)], model)
    assert whole(model) == before


def test_renamed_tensors(shelf, model, tmp_path):
    tuned = {f"bert.{name}": tensor for name, tensor in shelf.tuned["math"].items()}
    tuned["head.bias"] = Tensor.from_float32(np.ones(3, np.float32), "BF16")
    skill = models.make_skill(tmp_path / "store", shelf.base, tuned, "renamed")
    before = whole(model)
    install([skill], model)
    assert tensors_of(model) == digests(tuned)
    with pytest.raises(ConflictError, match="code, renamed name the tensors of the model differently"):
        install([shelf.skills["code"]], model)
    assert tensors_of(model) == digests(tuned)
    remove(None, model)
    assert whole(model) == before


def test_grown_vocabulary(shelf, model, tmp_path):
    embed = shelf.tensors["embed.weight"]
    rows = Tensor.from_float32(np.full((2, 8), 0.5, np.float32), "BF16")
    grown = Tensor("BF16", (14, 8), np.concatenate([embed.data, rows.data]))
    skill = models.make_skill(tmp_path / "store", shelf.base, {**shelf.tensors, "embed.weight": grown}, "grown")
    install([skill], model)
    assert tensors_of(model)["embed.weight"] == grown.digest()
    with pytest.raises(ConflictError, match=r"embed\.weight"):
        install([shelf.skills["code"]], model)
    remove(None, model)
    assert model_files(model) == model_files(shelf.base)


def tied_base():
    tensors = models.base_tensors()
    return {
        **{name: tensors[name] for name in tensors if name != "embed.weight"},
        "wte.weight": tensors["embed.weight"],
    }


def test_an_untied_head_follows_the_skills_that_leave_it_tied(tmp_path):
    base = tied_base()
    folder = models.write_model(tmp_path / "base", base, sharded=False)
    store = tmp_path / "store"
    head = models.moved(base, 5, "wte.weight")["wte.weight"]
    untied = models.make_skill(store, folder, {**base, "lm_head.weight": head}, "untied")
    embedding = models.moved(base, 6, "wte.weight")
    tied = models.make_skill(store, folder, embedding, "tied")
    install([untied, tied], folder)
    values = {name: open_checkpoint(folder).read(name).float32() for name in ("lm_head.weight", "wte.weight")}
    start, moved = base["wte.weight"].float32(), embedding["wte.weight"].float32()
    assert np.array_equal(values["wte.weight"], moved)
    expected = (moved - start) + (head.float32() - start) + start
    assert np.allclose(values["lm_head.weight"], expected, atol=0.02)
    assert not np.allclose(values["lm_head.weight"], head.float32(), atol=0.02)


def test_tied_tensors_stay_tied_at_any_weight(tmp_path):
    base = tied_base()
    folder = models.write_model(tmp_path / "base", base, sharded=False)
    tuned = models.moved(base, 5, "wte.weight")
    skill = models.make_skill(tmp_path / "store", folder, {**tuned, "lm_head.weight": tuned["wte.weight"]}, "both")
    assert {entry.same_as for entry in skill.skill.manifest.tensors} == {None, "wte.weight"}
    install([skill._replace(weight=0.5)], folder)
    found = tensors_of(folder)
    assert found["lm_head.weight"] == found["wte.weight"] != tuned["wte.weight"].digest()
    install([skill], folder)
    assert tensors_of(folder) == digests({**tuned, "lm_head.weight": tuned["wte.weight"]})


def test_a_head_that_is_listed_but_did_not_change(tmp_path):
    base = tied_base()
    folder = models.write_model(tmp_path / "base", base, sharded=False)
    tuned = {**models.moved(base, 5, "layers.0.norm.weight"), "lm_head.weight": base["wte.weight"]}
    skill = models.make_skill(tmp_path / "store", folder, tuned, "listed")
    install([skill._replace(weight=0.25)], folder)
    assert tensors_of(folder)["lm_head.weight"] == base["wte.weight"].digest()


def test_new_files_in_new_folders_come_and_go(shelf, model, tmp_path):
    tuned = models.write_model(tmp_path / "tuned", shelf.tuned["math"])
    (tuned / "1_Pooling").mkdir()
    (tuned / "1_Pooling" / "config.json").write_text('{"mode": "mean"}')
    (tuned / "chat_template.jinja").write_text("{{ messages }}")
    from skillpack.packing import pack

    report = pack(shelf.base, tuned, "pooled", exact=True, store=tmp_path / "store", author="Ada")
    skill = models.wanted(tmp_path / "store", report.digest, "pooled")
    before = whole(model)
    install([skill], model)
    assert (model / "1_Pooling" / "config.json").read_text() == '{"mode": "mean"}'
    install([shelf.skills["chat"]], model)
    with pytest.raises(ConflictError, match=r"chat cannot have weight 0\.5: file tokenizer\.json"):
        install([shelf.skills["chat"]._replace(weight=0.5)], model)
    remove(["pooled"], model)
    assert not (model / "1_Pooling").exists()
    assert not (model / "chat_template.jinja").exists()
    remove(["chat"], model)
    assert whole(model) == before


def test_a_users_own_files_are_left_alone(shelf, model):
    install([shelf.skills["math"]], model)
    (model / "notes.txt").write_text("mine")
    (model / "config.json").write_text('{"mine": true}')
    (model / ".skillpack" / "theirs").write_text("not ours")
    remove(None, model)
    assert (model / "notes.txt").read_text() == "mine"
    assert (model / "config.json").read_text() == '{"mine": true}'
    assert (model / ".skillpack" / "theirs").read_text() == "not ours"


def test_dry_runs_report_and_change_nothing(shelf, model):
    before = whole(model)
    report = install([shelf.skills["math"]], model, dry_run=True)
    assert report.dry_run
    assert report.written == (FIRST, SECOND, INDEX)
    assert whole(model) == before
    install([shelf.skills["math"]], model)
    installed = whole(model)
    assert remove(None, model, dry_run=True).restored == (FIRST, SECOND, INDEX)
    with pytest.raises(NotFoundError):
        remove(["code"], model, dry_run=True)
    assert whole(model) == installed


def test_progress_is_told_in_bytes(shelf, model):
    calls = []
    report = install(
        [shelf.skills["math"]], model, progress=lambda done, total, what: calls.append((what, done, total))
    )
    stages = list(dict.fromkeys(what for what, _, _ in calls))
    assert stages == ["checking the base", "writing the model"]
    assert [call for call in calls if call[0] == stages[1]][-1][1:] == (report.nbytes, report.nbytes)


def test_the_receipt_names_no_path_outside_of_the_folder(shelf, model):
    install([shelf.skills["math"]], model, force=True)
    receipt = (model / ".skillpack/.cache/huggingface/receipt.json").read_text()
    document = json.loads(receipt)
    assert str(model) not in receipt
    assert str(shelf.root) not in receipt
    assert document["base"]["fingerprint"] == shelf.skills["math"].skill.manifest.base_fingerprint
    assert document["skills"][0]["forced"] is True
    assert set(document["originals"]) == set(document["written"]) == {FIRST, SECOND, INDEX}
