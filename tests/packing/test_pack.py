"""Packing real files into a real store and getting the fine-tune back."""

import json
import os
import subprocess
import sys
import tempfile

import numpy as np
import pytest
from safetensors import safe_open

from skillpack import pack
from skillpack.checkpoint import open_checkpoint
from skillpack.companions import apply
from skillpack.errors import CheckpointError, NotFiniteError, StoreError, UsageError
from skillpack.library import show
from skillpack.packing import payload
from skillpack.summaries import list_skills
from skillpack.tensors import Tensor
from skillpack_store import Repository
from tests.packing.models import (
    EMBED,
    HEAD,
    NORM,
    assert_same,
    base_values,
    bytes_on_disk,
    drift,
    error,
    normal,
    rebuilt,
    stored,
    tensor,
    tuned_values,
    write,
)

BASE = base_values()
TUNED = tuned_values(BASE)
Q_PROJ = "model.layers.0.q_proj.weight"


@pytest.fixture
def store(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def models(tmp_path):
    """Writes base and fine-tune; returns their folders."""

    def run(base=BASE, tuned=TUNED, dtype="BF16", **files):
        return write(tmp_path / "base", base, dtype, **files), write(tmp_path / "tuned", tuned, dtype)

    return run


@pytest.fixture
def exact(models, store):
    """Packs exactly, and checks that the skill gives back the fine-tune bit for bit. Returns skill and report."""

    def run(base, tuned, dtype="BF16"):
        folders = models(base, tuned, dtype)
        report = pack(*folders, "s", exact=True, store=store)
        skill = show("s", store=store).skill
        assert_same(rebuilt(skill, folders[0]), stored(tuned, dtype))
        assert {entry.error for entry in skill.manifest.tensors} == {0}
        return skill, report

    return run


def entries(skill):
    return {entry.name: entry for entry in skill.manifest.tensors}


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_exact_gives_the_fine_tune_bit_for_bit(exact, dtype):
    skill, report = exact(BASE, TUNED, dtype)
    assert report.size < report.tuned_size
    assert report.unchanged == 0
    assert len(skill.manifest.tensors) == len(BASE)


@pytest.mark.parametrize("size", [4000, 9000, 25_000])
def test_the_size_is_that_of_the_files_and_is_met(models, store, size):
    base, tuned = models()
    report = pack(base, tuned, "s", size=size, store=store)
    assert report.size == bytes_on_disk(store, report.digest) == show("s", store=store).skill.size
    assert 0.97 * size <= report.size <= size


def test_errors_reported_are_those_of_what_is_rebuilt(models, store):
    base, tuned = models()
    errors = []
    for quality in (0.9, 0.99, 0.999):
        report = pack(base, tuned, "s", quality=quality, store=store)
        found = rebuilt(show("s", store=store).skill, base)
        errors.append(error(found, stored(BASE), stored(TUNED)))
        for entry in report.manifest.tensors:
            one = {entry.name: found[entry.name]}
            met = error(one, {entry.name: stored(BASE)[entry.name]}, {entry.name: stored(TUNED)[entry.name]})
            # Casting the sum to bf16 adds to the error that the manifest tells.
            assert entry.error - 0.02 < met < entry.error + 0.15, entry.name
    assert errors == sorted(errors, reverse=True)


def test_the_report_says_what_was_packed(models, store):
    base, tuned = models(tuned=TUNED | {NORM: BASE[NORM]})
    (tuned / "modeling.py").touch()
    report = pack(base, tuned, "s", store=store, message="because", author="Ada")
    assert (report.name, report.version, report.unchanged, report.code_files) == ("s", 1, 1, ("modeling.py",))
    assert report.tuned_size == sum(tensor(values).nbytes for values in TUNED.values())
    (summary,) = list_skills(store=store)
    assert (summary.digest, summary.size) == (report.digest, report.size)
    assert (summary.message, summary.author) == ("because", "Ada")
    assert NORM not in entries(show("s", store=store).skill)


def test_unchanged_tensors_cost_nothing(models, store, tmp_path):
    one = BASE | {Q_PROJ: TUNED[Q_PROJ]}
    base, tuned = models(tuned=one)
    large = {f"model.layers.{block}.other.weight": normal(256, 256, seed=block) for block in range(10, 30)}
    write(tmp_path / "base2", BASE | large)
    write(tmp_path / "tuned2", one | large)
    sizes = [
        pack(*pair, "s", exact=True, dry_run=True).size
        for pair in ((base, tuned), (tmp_path / "base2", tmp_path / "tuned2"))
    ]
    # Only the two fingerprints of the models differ.
    assert abs(sizes[0] - sizes[1]) <= 30
    assert [entry.name for entry in pack(base, tuned, "s", store=store).manifest.tensors] == [Q_PROJ]


def test_identical_models_are_refused_and_nothing_is_stored(models, store):
    base, tuned = models(tuned=dict(reversed(BASE.items())))
    with pytest.raises(UsageError, match="does not differ") as caught:
        pack(base, tuned, "s", store=store)
    assert caught.value.exit_code == 2
    assert not store.exists()


def test_unrelated_models_are_refused(models, store):
    base, tuned = models(tuned={f"other.{name}x": values for name, values in BASE.items()})
    with pytest.raises(CheckpointError, match="hardly a tensor name in common"):
        pack(base, tuned, "s", store=store)
    assert not store.exists()


@pytest.mark.parametrize("name", ["Math", "a b", "", "123", "../x", "x" * 200])
def test_bad_names_are_refused_before_any_work(models, store, name):
    if not name:
        name = "-"
    with pytest.raises(StoreError):
        pack("missing", "missing", name, store=store)


def test_the_name_comes_from_the_fine_tune(models, store):
    base, tuned = models()
    renamed = tuned.rename(tuned.parent / "My_Math.Tuned 3")
    assert pack(base, renamed, store=store).name == "my-math-tuned-3"


def test_a_dry_run_stores_nothing(models, store, tmp_path, monkeypatch):
    base, tuned = models()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    report = pack(base, tuned, "s", store=store, dry_run=True)
    assert (report.version, report.digest) == (None, "")
    assert not store.exists()
    assert list((tmp_path / "tmp").iterdir()) == []
    assert pack(base, tuned, "s", store=store).size == report.size


def test_a_failed_pack_leaves_the_library_as_it_was(models, store, tmp_path):
    base, tuned = models()
    first = pack(base, tuned, "s", store=store)
    broken = TUNED | {Q_PROJ: np.full((64, 64), np.nan, np.float32)}
    with pytest.raises(NotFiniteError, match=r"q_proj"):
        pack(base, write(tmp_path / "broken", broken), "s", store=store)
    assert [summary.digest for summary in list_skills(store=store)] == [first.digest]


# Sameness


def test_the_same_pack_twice_has_one_digest_and_one_version(models, store):
    base, tuned = models()
    first, second = (pack(base, tuned, "s", store=store, size=9000) for _ in range(2))
    assert (first.digest, first.version) == (second.digest, second.version)
    assert pack(base, tuned, "s", store=store, size=8000).version == 2


def test_name_path_sharding_and_metadata_do_not_change_the_digest(models, store, tmp_path):
    base, tuned = models()
    first = pack(base, tuned, "s", store=store)
    tensors = stored(TUNED)
    shards = tmp_path / "elsewhere" / "sharded"
    shards.mkdir(parents=True)
    weight_map = {}
    for at, names in enumerate([sorted(tensors)[::2], sorted(tensors)[1::2][::-1]]):
        write(tmp_path / f"part{at}", {name: tensors[name] for name in names})
        (tmp_path / f"part{at}" / "model.safetensors").rename(shards / f"model-{at}.safetensors")
        weight_map |= dict.fromkeys(names, f"model-{at}.safetensors")
    (shards / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    other = pack(base.rename(tmp_path / "moved"), shards, "other-name", store=store)
    assert other.digest == first.digest


PACK = """
import os, sys
from pathlib import Path
cores = int(sys.argv[4])
os.sched_getaffinity = lambda pid: set(range(cores))
from skillpack import pack
sys.stdout.write(pack(sys.argv[1], sys.argv[2], "s", store=sys.argv[3], size=9000).digest)
"""


def test_the_digest_does_not_depend_on_the_number_of_workers_or_the_process(models, store, monkeypatch):
    base, tuned = models()
    digests = set()
    for cores in (1, 2, 7):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid, cores=cores: set(range(cores)))
        digests.add(pack(base, tuned, "s", store=store, size=9000).digest)
    environment = {**os.environ, "PYTHONHASHSEED": "5", "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [sys.executable, "-c", PACK, base, tuned, store, "3"],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    digests.add(result.stdout)
    assert len(digests) == 1


# Kinds of change


def test_new_rows_of_a_grown_vocabulary(exact):
    grown = np.concatenate([TUNED[EMBED], normal(7, 64, seed=50)])
    skill, _ = exact(BASE, TUNED | {EMBED: grown})
    entry = entries(skill)[EMBED]
    assert (entry.shape, entry.common_rows, entry.rows.codec) == ((307, 64), 300, "raw")


def test_new_rows_are_exact_in_a_lossy_pack_too(models, store):
    grown = np.concatenate([TUNED[EMBED], normal(7, 64, seed=50)])
    base, tuned = models(tuned=TUNED | {EMBED: grown})
    pack(base, tuned, "s", quality=0.5, store=store)
    found = rebuilt(show("s", store=store).skill, base)[EMBED]
    np.testing.assert_array_equal(found.bits()[300:], tensor(grown).bits()[300:])


def test_lost_rows(exact):
    skill, _ = exact(BASE, TUNED | {EMBED: TUNED[EMBED][:290]})
    assert entries(skill)[EMBED].common_rows == 290
    assert entries(skill)[EMBED].rows is None


def test_a_new_head_and_gone_tensors(exact):
    tuned = {name: values for name, values in TUNED.items() if "layers.1.bias" not in name}
    skill, _ = exact(BASE, tuned | {"classifier.weight": normal(5, 64), "classifier.bias": normal(5)})
    assert entries(skill)["classifier.weight"].reference is None
    assert entries(skill)["classifier.weight"].main.codec == "raw"
    assert [name for name, _ in skill.manifest.gone] == ["model.layers.1.bias.weight"]


def test_a_tied_head_is_stored_once(exact):
    skill, _ = exact(BASE, TUNED | {HEAD: TUNED[EMBED]})
    entry = entries(skill)[HEAD]
    assert (entry.same_as, entry.parts) == (EMBED, ())


def test_a_tied_head_of_a_grown_vocabulary_is_stored_once(exact):
    grown = np.concatenate([TUNED[EMBED], normal(7, 64, seed=50)])
    skill, _ = exact(BASE, TUNED | {EMBED: grown, HEAD: grown})
    entry = entries(skill)[HEAD]
    assert (entry.same_as, entry.common_rows, entry.parts) == (EMBED, 300, ())


def test_a_head_tied_to_an_unchanged_embedding(exact):
    skill, _ = exact(BASE, TUNED | {EMBED: BASE[EMBED], HEAD: BASE[EMBED]})
    assert EMBED not in entries(skill)
    assert entries(skill)[HEAD].same_as == EMBED
    with pytest.raises(ValueError, match="same as"):
        skill.decode(entries(skill)[HEAD], None)


def test_a_head_untied_by_the_fine_tune_is_relative_to_the_embedding(exact):
    skill, _ = exact(BASE, TUNED | {HEAD: BASE[EMBED] + drift(BASE[EMBED].shape, 60)})
    assert entries(skill)[HEAD].reference == EMBED
    assert entries(skill)[HEAD].main.codec == "exact"


def test_names_with_another_prefix(exact):
    skill, _ = exact(BASE, {f"outer.{name}": values for name, values in TUNED.items()})
    assert skill.manifest.renaming == ("", "outer.")
    assert entries(skill)[f"outer.{Q_PROJ}"].reference == Q_PROJ


def test_an_fp32_fine_tune_of_a_bf16_base(exact, models, store, tmp_path):
    base = stored(BASE)
    tuned = {
        name: tensor(found.float32() + drift(found.shape, at), "F32") for at, (name, found) in enumerate(base.items())
    }
    skill, report = exact(base, tuned)
    assert {entry.dtype for entry in skill.manifest.tensors} == {"F32"}
    lossy = pack(tmp_path / "base", tmp_path / "tuned", "t", quality=0.999, store=store)
    assert lossy.size < report.size / 2
    found = rebuilt(show("t", store=store).skill, tmp_path / "base")
    assert {found[name].dtype for name in tuned} == {"F32"}
    assert error(found, base, tuned) < 0.05


def test_tensors_of_every_rank_and_dtype(exact):
    base = {
        "scalar": normal(),
        "one.1.weight": normal(5),
        "conv.2.weight": normal(16, 4, 3, 3),
        "experts.3.weight": normal(4, 24, 16),
        "same": normal(9, 9),
        "ids": Tensor.of(np.arange(6)),
        "mask": Tensor.of(np.array([True, False])),
        "wide": Tensor.of(np.arange(4.0)),
    }
    tuned = {
        name: values + normal(*np.shape(values), seed=3, scale=0.02)
        for name, values in base.items()
        if not isinstance(values, Tensor)
    }
    tuned |= {"same": base["same"], "ids": Tensor.of(np.arange(6)[::-1])}
    tuned |= {"mask": Tensor.of(np.array([True, True])), "wide": Tensor.of(np.arange(4.0) / 3)}
    skill, _ = exact(base, tuned)
    assert "same" not in entries(skill)


@pytest.mark.parametrize("value", [np.nan, np.inf, -0.0])
def test_numbers_that_are_not_finite_are_kept_by_an_exact_pack(exact, value):
    broken = TUNED | {Q_PROJ: TUNED[Q_PROJ].copy(), NORM: np.full_like(TUNED[NORM], value)}
    broken[Q_PROJ][3, 4] = value
    exact(BASE, broken)


def test_a_change_that_needs_no_coded_bytes(exact):
    """Every element changes alike, so that all streams of the block are empty and no layer has it."""
    name = "model.layers.7.scale"
    skill, _ = exact({name: np.full(4, 128.0)}, {name: np.full(4, 129.0)})
    assert entries(skill)[name].nbytes == 0


def test_a_lora_adapter(tmp_path, store):
    base = write(tmp_path / "base", BASE, "F32")
    adapter = tmp_path / "adapter"
    prefix = f"base_model.model.{Q_PROJ.removesuffix('.weight')}"
    down, up = normal(4, 64, seed=70), normal(64, 4, seed=71, scale=0.01)
    write(adapter, {f"{prefix}.lora_A.weight": down, f"{prefix}.lora_B.weight": up}, "F32")
    (adapter / "model.safetensors").rename(adapter / "adapter_model.safetensors")
    settings = {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj"],
        "base_model_name_or_path": "x",
    }
    (adapter / "adapter_config.json").write_text(json.dumps(settings))
    report = pack(base, adapter, "s", quality=0.999, store=store)
    assert [entry.name for entry in report.manifest.tensors] == [Q_PROJ]
    assert sum(report.manifest.tensors[0].main.parameters["columns"]) == 4
    skill = show("s", store=store).skill
    delta = skill.decode(skill.manifest.tensors[0], open_checkpoint(base).read(Q_PROJ)).delta
    np.testing.assert_allclose(delta, 2 * up @ down, atol=0.02 * np.abs(2 * up @ down).max())
    assert report.size < (down.nbytes + up.nbytes)


def test_changed_files_travel_as_what_changed_in_them(models, store):
    documents = {"config": {"a": 1, "same": [1, 2]}, "tokenizer_config": {"x": 1}, "generation_config": {"t": 1.0}}
    base, tuned = models(**documents)
    (tuned / "config.json").write_text(json.dumps({"same": [1, 2], "a": 2}))
    (tuned / "tokenizer_config.json").write_text(json.dumps({"x": 1}, indent=8))
    (tuned / "chat_template.jinja").write_text("{{ messages }}")
    pack(base, tuned, "s", store=store)
    skill = show("s", store=store).skill
    changes = {change.path: change for change in skill.file_changes()}
    assert sorted(changes) == ["chat_template.jinja", "config.json"]
    assert apply(changes["chat_template.jinja"], None) == b"{{ messages }}"
    assert json.loads(apply(changes["config.json"], (base / "config.json").read_bytes())) == {"a": 2, "same": [1, 2]}


def test_only_a_file_changed(models, store):
    base, tuned = models(tuned=BASE, tokenizer_config={"x": 1})
    (tuned / "tokenizer_config.json").write_text(json.dumps({"x": 2}))
    report = pack(base, tuned, "s", store=store, size=2000)
    assert report.size < 1000
    (change,) = show("s", store=store).skill.file_changes()
    assert json.loads(apply(change, b'{"x": 1}')) == {"x": 2}


def test_only_a_tensor_is_gone(models, store):
    base, tuned = models(tuned={name: values for name, values in BASE.items() if name != NORM})
    report = pack(base, tuned, "s", store=store)
    assert [name for name, _ in report.manifest.gone] == [NORM]
    assert_same(
        rebuilt(show("s", store=store).skill, base), {name: tensor(BASE[name]) for name in BASE if name != NORM}
    )


# Layers


def test_any_safetensors_reader_opens_the_layers(models, store):
    base, tuned = models()
    report = pack(base, tuned, "s", store=store)
    repository = Repository.open(store)
    (layer,) = repository.skill_manifest(report.digest).layers
    with safe_open(repository.blobs.path(layer.digest), "np") as file:
        blocks = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    assert sorted(blocks) == ["model.layers.0", "model.layers.1", "rest"]
    assert {str(values.dtype) for values in blocks.values()} == {"uint8"}


def test_large_skills_have_a_layer_a_block_and_versions_share_them(models, store, tmp_path, monkeypatch):
    monkeypatch.setattr(payload, "SINGLE_LAYER", 3000)
    base, tuned = models()
    first = pack(base, tuned, "s", exact=True, store=store)
    repository = Repository.open(store)
    layers = repository.skill_manifest(first.digest).layers
    assert len(layers) == 3
    assert_same(rebuilt(show("s", store=store).skill, base), stored(TUNED))
    assert first.size == bytes_on_disk(store, first.digest)
    sized = pack(base, tuned, "t", size=12_000, store=store)
    assert 11_640 <= sized.size <= 12_000
    assert sized.size == bytes_on_disk(store, sized.digest)


def test_the_library_is_made_where_it_is_asked_for(models, tmp_path, monkeypatch):
    monkeypatch.setenv("SKILLPACK_HOME", str(tmp_path / "home"))
    base, tuned = models()
    report = pack(base, tuned, "s")
    assert Repository.open(tmp_path / "home" / "store").skills()["s"].digest == report.digest
