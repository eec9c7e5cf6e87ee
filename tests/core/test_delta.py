"""Every kind of change between two checkpoints, none dropped."""

import json
import time

import numpy as np
import pytest
from safetensors.numpy import save_file
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file as save_torch

from skillpack.checkpoint import open_checkpoint
from skillpack.delta import Change, Renaming, find_delta, find_renaming
from skillpack.errors import CheckpointError

RANDOM = np.random.default_rng(0)


def array(*shape, dtype=np.float32):
    return RANDOM.normal(size=shape).astype(dtype)


BASE = {
    "model.embed_tokens.weight": array(10, 4),
    "model.layers.0.proj.weight": array(4, 4),
    "model.layers.0.norm.weight": array(4),
    "model.layers.0.proj.bias": array(4),
    "model.layers.0.experts.weight": array(3, 4, 2),
    "model.conv.weight": array(2, 4, 3, 3),
    "model.ids": np.arange(6),
    "lm_head.weight": array(10, 4),
}


def save(folder, tensors, **files):
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    for name, document in files.items():
        (folder / f"{name}.json").write_text(json.dumps(document))
    return open_checkpoint(folder)


@pytest.fixture
def compare(tmp_path):
    """Delta between two mappings of tensors, and its changes by name."""

    def run(base, tuned):
        delta = find_delta(save(tmp_path / "base", base), save(tmp_path / "tuned", tuned))
        assert list(delta.base_digests) == sorted(base)
        assert list(delta.tuned_digests) == sorted(tuned)
        assert [change.name for change in delta.changes] == sorted(change.name for change in delta.changes)
        return delta, {change.name: change for change in delta.changes}

    return run


def test_the_same_model_has_no_difference(compare):
    delta, changes = compare(BASE, dict(reversed(BASE.items())))
    assert changes == {}
    assert delta.gone == delta.files == delta.code_files == ()
    assert delta.renaming == Renaming()


@pytest.mark.parametrize("name", sorted(BASE))
def test_one_changed_tensor_of_any_rank_is_found_and_the_others_are_not(compare, name):
    tuned = BASE | {name: BASE[name].copy()}
    tuned[name].flat[-1] += 1
    delta, changes = compare(BASE, tuned)
    info = delta.tuned.tensors[name]
    assert changes == {name: Change(name, info.dtype, info.shape, reference=name)}
    reference, changed = delta.pair(changes[name])
    np.testing.assert_array_equal(reference.array(), BASE[name])
    np.testing.assert_array_equal(changed.array(), tuned[name])


def test_negative_zero_is_a_change(compare):
    assert compare({"w": np.zeros(2, np.float32)}, {"w": -np.zeros(2, np.float32)})[1]


def test_new_and_gone_tensors(compare):
    tuned = {name: values for name, values in BASE.items() if not name.startswith("lm_head")}
    delta, changes = compare(BASE, tuned | {"classifier.weight": array(3, 4), "classifier.bias": array(3)})
    assert changes.keys() == {"classifier.weight", "classifier.bias"}
    assert changes["classifier.weight"] == Change("classifier.weight", "F32", (3, 4))
    assert delta.pair(changes["classifier.weight"])[0] is None
    assert delta.gone == ("lm_head.weight",)


@pytest.mark.parametrize("rows", [12, 7])
def test_rows_added_or_removed(compare, rows):
    name = "model.embed_tokens.weight"
    values = np.concatenate([BASE[name], array(5, 4)])[:rows]
    _, changes = compare(BASE, BASE | {name: values})
    assert changes == {name: Change(name, "F32", (rows, 4), name, common_rows=min(10, rows))}


def test_classifier_with_other_labels(compare):
    base = BASE | {"score.weight": array(2, 4), "score.bias": array(2)}
    _, changes = compare(base, base | {"score.weight": array(5, 4), "score.bias": array(5)})
    assert {name: change.common_rows for name, change in changes.items()} == {"score.weight": 2, "score.bias": 2}


@pytest.mark.parametrize("shape", [(4, 5), (16,), (2, 2, 4)])
def test_other_shapes_are_refused_with_both(compare, shape):
    name = "model.layers.0.proj.weight"
    with pytest.raises(CheckpointError, match=r"proj\.weight \[4, 4\] -> \[") as caught:
        compare(BASE, BASE | {name: array(*shape)})
    assert str(list(shape)) in str(caught.value)


def test_another_dtype_is_a_change_even_if_no_value_differs(compare):
    name = "model.layers.0.norm.weight"
    base = BASE | {name: array(4, dtype=np.float16)}
    _, changes = compare(base, base | {name: base[name].astype(np.float32)})
    assert changes == {name: Change(name, "F32", (4,), name)}


def test_a_reference_of_a_dtype_that_cannot_be_subtracted_is_none(compare):
    _, changes = compare(BASE, BASE | {"model.ids": np.arange(6, dtype=np.int32)})
    assert changes == {"model.ids": Change("model.ids", "I32", (6,))}


def test_bf16_base_and_fp32_fine_tune(tmp_path):
    import torch

    (tmp_path / "base").mkdir()
    (tmp_path / "tuned").mkdir()
    values = torch.randn(4, 4)
    save_torch({"w": values.bfloat16()}, tmp_path / "base" / "model.safetensors")
    save_torch({"w": values}, tmp_path / "tuned" / "model.safetensors")
    delta = find_delta(open_checkpoint(tmp_path / "base"), open_checkpoint(tmp_path / "tuned"))
    assert delta.changes == (Change("w", "F32", (4, 4), "w"),)
    reference, tuned = delta.pair(delta.changes[0])
    assert (reference.dtype, tuned.dtype) == ("BF16", "F32")


EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
TIED = {name: values for name, values in BASE.items() if name != HEAD}


def test_tied_head_that_is_only_saved_twice_is_stored_once(compare):
    _, changes = compare(TIED, TIED | {HEAD: TIED[EMBED]})
    assert changes == {HEAD: Change(HEAD, "F32", (10, 4), EMBED, same_as=EMBED)}


def test_tied_and_trained_head_is_stored_once(compare):
    trained = array(10, 4)
    _, changes = compare(TIED, TIED | {EMBED: trained, HEAD: trained})
    assert changes[EMBED] == Change(EMBED, "F32", (10, 4), EMBED)
    assert changes[HEAD] == Change(HEAD, "F32", (10, 4), EMBED, same_as=EMBED)


def test_head_untied_by_the_fine_tune_is_relative_to_the_embedding(compare):
    _, changes = compare(TIED, TIED | {HEAD: array(12, 4)})
    assert changes == {HEAD: Change(HEAD, "F32", (12, 4), EMBED, common_rows=10)}


def test_tied_by_the_fine_tune(compare):
    delta, changes = compare(BASE, {**TIED, EMBED: array(10, 4)})
    assert changes[EMBED].reference == EMBED
    assert delta.gone == (HEAD,)


def test_tied_tensor_kept_under_the_other_name(compare):
    base = {name: values for name, values in BASE.items() if name != EMBED}
    delta, changes = compare(base, TIED | {EMBED: BASE[HEAD]})
    assert changes == {EMBED: Change(EMBED, "F32", (10, 4), HEAD)}
    assert delta.gone == (HEAD,)


def test_equal_tensors_with_unequal_references_are_both_stored(compare):
    ones = np.ones(4, np.float32)
    tuned = BASE | {"model.layers.0.norm.weight": ones, "model.layers.0.proj.bias": ones}
    _, changes = compare(BASE, tuned)
    assert [change.same_as for change in changes.values()] == [None, None]


def test_equal_new_tensors_are_stored_once(compare):
    _, changes = compare(BASE, BASE | {"a.weight": np.ones((2, 4)), "b.weight": np.ones((2, 4))})
    assert changes["a.weight"].same_as is None
    assert changes["b.weight"].same_as == "a.weight"


def prefixed(tensors, add="", strip=""):
    return {add + name.removeprefix(strip): values for name, values in tensors.items()}


@pytest.mark.parametrize(
    ("base", "tuned", "renaming"),
    [
        (BASE, prefixed(BASE, "bert."), ("", "bert.")),
        (prefixed(BASE, "bert."), BASE, ("bert.", "")),
        (
            prefixed(TIED, "model.", "model."),
            prefixed(TIED, "a.language_model.", "model."),
            ("model.", "a.language_model."),
        ),
    ],
)
def test_names_that_differ_by_a_prefix(compare, base, tuned, renaming):
    changed = max(tuned)
    tuned = tuned | {changed: tuned[changed] + 1, "classifier.weight": array(2, 4)}
    delta, changes = compare(base, tuned)
    assert delta.renaming == renaming
    assert changes.keys() == {changed, "classifier.weight"}
    assert delta.renaming.apply(changes[changed].reference) == changed
    assert delta.gone == ()


def test_prefixed_base_with_a_head_that_the_inner_model_lacks(compare):
    base = prefixed(TIED, "bert.") | {"cls.predictions.bias": array(10)}
    delta, changes = compare(base, TIED)
    assert delta.renaming == ("bert.", "")
    assert delta.gone == ("cls.predictions.bias",)
    assert changes == {}


def test_models_with_nothing_in_common_are_refused():
    with pytest.raises(CheckpointError, match="hardly a tensor name in common"):
        find_renaming(dict.fromkeys(["a.w", "b.w"]), dict.fromkeys(["c.x", "d.x"]))


def test_a_prefix_that_explains_few_names_is_not_believed():
    base = dict.fromkeys([f"layers.{n}.w" for n in range(9)])
    tuned = dict.fromkeys(["x.layers.1.w", *(f"y.{n}.v" for n in range(9))])
    with pytest.raises(CheckpointError, match="hardly"):
        find_renaming(base, tuned)


def test_ambiguous_prefixes_are_refused():
    base = dict.fromkeys(["layers.0.w", "layers.1.w"])
    tuned = dict.fromkeys([f"{tower}.layers.{n}.w" for tower in ("text", "vision") for n in range(2)])
    with pytest.raises(CheckpointError, match="equally well in two ways"):
        find_renaming(base, tuned)


def test_two_names_that_would_become_one_are_refused(compare):
    base = prefixed(BASE, "bert.") | {"model.ids": BASE["model.ids"]}
    tuned = {name: values for name, values in BASE.items() if name != "model.ids"}
    with pytest.raises(CheckpointError, match="one name"):
        compare(base, tuned)


def test_nested_folders_and_files(tmp_path):
    for side, step in (("base", 0), ("tuned", 1)):
        save(tmp_path / side, BASE, config={"a": 1}, tokenizer_config={"x": step})
        save(tmp_path / side / "2_Dense", {"linear.weight": BASE[EMBED] + step}, config={"in": 4})
        (tmp_path / side / "1_Pooling").mkdir()
        (tmp_path / side / "1_Pooling" / "config.json").write_text(json.dumps({"mode": step}))
    (tmp_path / "tuned" / "modeling_new.py").touch()
    delta = find_delta(open_checkpoint(tmp_path / "base"), open_checkpoint(tmp_path / "tuned"))
    assert [change.name for change in delta.changes] == ["2_Dense/linear.weight"]
    assert [change.path for change in delta.files] == ["1_Pooling/config.json", "tokenizer_config.json"]
    assert delta.code_files == ("modeling_new.py",)


def test_progress_sums_up_to_both_models(tmp_path):
    seen = []
    base = save(tmp_path / "base", BASE)
    find_delta(base, save(tmp_path / "tuned", BASE), progress=seen.append)
    assert sum(seen) == 2 * sum(values.nbytes for values in BASE.values())


@pytest.mark.real_model
def test_smollm2_is_compared_in_seconds(tmp_path):
    from recipes.models import smollm2

    base = open_checkpoint(smollm2())
    tensors = load_torch(smollm2() / "model.safetensors")
    tensors["model.norm.weight"] = tensors["model.norm.weight"] * 2
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    save_torch(tensors, tmp_path / "model.safetensors")
    start = time.perf_counter()
    delta = find_delta(base, open_checkpoint(tmp_path))
    assert time.perf_counter() - start < 15
    assert [(change.name, change.same_as) for change in delta.changes] == [
        ("lm_head.weight", "model.embed_tokens.weight"),
        ("model.norm.weight", None),
    ]
