"""LoRA adapters against peft itself: what we read is what merge_and_unload writes."""

import dataclasses
import json
import warnings

import numpy as np
import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from skillpack.checkpoint import open_checkpoint, open_tuned
from skillpack.delta import find_delta
from skillpack.errors import CheckpointError, DamagedCheckpointError, NotFiniteError, UnsupportedCheckpointError
from skillpack.packing.planning import LossyPlan, plan_change
from skillpack.tensors import Tensor

LLAMA = transformers.LlamaConfig(
    vocab_size=96,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    tie_word_embeddings=False,
)
GPT2 = transformers.GPT2Config(vocab_size=96, n_positions=32, n_embd=32, n_layer=2, n_head=4)
BERT = transformers.BertConfig(
    vocab_size=96, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, num_labels=3
)
QV = ["q_proj", "v_proj"]


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def make(folder, model, dtype=torch.float32, wrapped=None, **settings):
    """Save a random base and a random adapter on it; return (base, tuned) as we read them and peft's merged tensors."""
    torch.manual_seed(0)
    model = model.to(dtype)
    (wrapped or model).save_pretrained(folder / "base")
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=6, **settings))
    for name, parameter in adapted.named_parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, 1.0 if "magnitude" in name else 0.0, 0.3)
    adapted.save_pretrained(folder / "adapter")
    merged = adapted.merge_and_unload()
    merged.save_pretrained(folder / "merged")
    base = open_checkpoint(folder / "base")
    return base, open_tuned(folder / "adapter", base), load_file(folder / "merged" / "model.safetensors")


def stored(values):
    raw = values.contiguous().reshape(-1).view(torch.uint8).numpy()
    dtypes = {torch.float32: "F32", torch.bfloat16: "BF16", torch.int64: "I64"}
    return Tensor(dtypes[values.dtype], tuple(values.shape), raw)


def assert_merges_alike(base, tuned, merged, rounding=2**-23):
    """Equal up to the rounding of the sum at the size of its larger part, and something changed."""
    changed = 0
    for name, values in merged.items():
        ours, theirs = tuned.read(name), stored(values)
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape), name
        assert (tuned.tensors[name].dtype, tuned.tensors[name].shape) == (ours.dtype, ours.shape)
        if tuned.inherits(name):
            assert ours.digest() == theirs.digest()
            continue
        changed += 1
        np.testing.assert_allclose(ours.float32(), theirs.float32(), rtol=rounding, atol=4 * rounding, err_msg=name)
        update = tuned.update(name)
        if update is not None:
            original = base.read(tuned.inherits(name) or name if name in base.tensors else name.partition(".")[2])
            difference = theirs.float32() - original.float32()
            np.testing.assert_allclose(update, difference, rtol=8 * rounding, atol=8 * rounding, err_msg=name)
    assert changed


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": QV},
        {"target_modules": QV, "use_rslora": True},
        {
            "target_modules": QV,
            "rank_pattern": {"q_proj": 2, r"layers\.1\.self_attn\.v_proj": 3},
            "alpha_pattern": {r"model\.layers\.0.*": 12, "v_proj": 5},
        },
        {"target_modules": "all-linear", "use_dora": True},
        {"target_modules": ["embed_tokens", "o_proj"]},
        {"target_modules": ["embed_tokens", "o_proj"], "use_dora": True},
        {"target_modules": QV, "modules_to_save": ["lm_head", "norm"]},
        {"target_modules": QV, "trainable_token_indices": [3, 95, 7]},
        {"target_modules": QV, "init_lora_weights": "gaussian", "lora_dropout": 0.1},
    ],
    ids=["plain", "rslora", "patterns", "dora", "embedding", "dora-embedding", "saved", "tokens", "gaussian"],
)
def test_llama(tmp_path, settings):
    assert_merges_alike(*make(tmp_path, transformers.LlamaForCausalLM(LLAMA), **settings))


@pytest.mark.parametrize(
    "settings", [{}, {"use_dora": True}, {"lora_bias": True}, {"bias": "all"}, {"bias": "lora_only"}]
)
def test_gpt2_conv1d(tmp_path, settings):
    model = transformers.GPT2LMHeadModel(GPT2)
    base, tuned, merged = make(
        tmp_path, model, target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True, **settings
    )
    assert_merges_alike(base, tuned, merged)
    if settings.get("bias") == "all":
        assert not tuned.inherits("transformer.ln_f.bias")


def test_bf16_base_is_within_a_unit_in_the_last_place(tmp_path):
    _, tuned, merged = make(tmp_path, transformers.LlamaForCausalLM(LLAMA), torch.bfloat16, target_modules=QV)
    same = total = 0
    for name, values in merged.items():
        ours, theirs = tuned.read(name).bits().astype(int), stored(values).bits().astype(int)
        assert np.abs(ours - theirs).max() <= 1
        same, total = same + (ours == theirs).sum(), total + ours.size
    assert same / total > 0.9999


def test_classifier_on_a_base_without_the_models_prefix(tmp_path):
    model = transformers.BertForSequenceClassification(BERT)
    base, tuned, merged = make(
        tmp_path, model, wrapped=model.bert, target_modules=["query", "value"], modules_to_save=["classifier"]
    )
    assert "embeddings.word_embeddings.weight" in base.tensors
    assert_merges_alike(base, tuned, merged)
    assert merged.keys() == tuned.tensors.keys()
    delta = find_delta(base, tuned)
    assert delta.renaming == ("", "bert.")
    assert {change.name.split(".")[-2] for change in delta.changes} == {"query", "value", "classifier"}


def test_adapter_of_the_inner_model_keeps_the_bases_names(tmp_path):
    model = transformers.BertForSequenceClassification(BERT)
    base, tuned, merged = make(
        tmp_path, model.bert, wrapped=model, target_modules=["query"], modules_to_save=["pooler"]
    )
    assert tuned.tensors.keys() == base.tensors.keys()
    assert not tuned.inherits("bert.pooler.dense.weight")
    assert_merges_alike(base, tuned, {f"bert.{name}": values for name, values in merged.items()})


def test_convolutions(tmp_path):
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], layer_type="basic", num_labels=2
    )
    model = transformers.ResNetForImageClassification(config)
    for settings in ({}, {"use_dora": True}):
        base, tuned, merged = make(tmp_path / str(len(settings)), model, target_modules=["convolution"], **settings)
        assert_merges_alike(base, tuned, merged, rounding=2**-21)


def test_resized_and_saved_embeddings(tmp_path):
    model = transformers.LlamaForCausalLM(LLAMA)
    model.save_pretrained(tmp_path / "base")
    model.resize_token_embeddings(100)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=[*QV, "embed_tokens"]))
    for name, parameter in adapted.named_parameters():
        if "lora" in name:
            torch.nn.init.normal_(parameter)
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    adapted.merge_and_unload().save_pretrained(tmp_path / "merged")
    base = open_checkpoint(tmp_path / "base")
    tuned = open_tuned(tmp_path / "adapter", base)
    merged = load_file(tmp_path / "merged" / "model.safetensors")
    assert tuned.tensors["model.embed_tokens.weight"].shape == (100, 32)
    np.testing.assert_allclose(
        tuned.read("model.embed_tokens.weight").float32(),
        merged["model.embed_tokens.weight"].numpy(),
        rtol=2**-21,
        atol=2**-20,
    )
    assert tuned.update("model.embed_tokens.weight") is None
    changes = {change.name: change for change in find_delta(base, tuned).changes}
    assert changes["model.embed_tokens.weight"].common_rows == 96


def test_large_weights_are_merged_in_pieces(tmp_path, monkeypatch):
    base, tuned, merged = make(
        tmp_path, transformers.LlamaForCausalLM(LLAMA), target_modules=["embed_tokens", "o_proj"], use_dora=True
    )
    monkeypatch.setattr("skillpack.codecs.products._PIECE", 100)
    assert_merges_alike(base, tuned, merged)


def test_delta_reads_only_what_the_adapter_touches(tmp_path):
    base, tuned, _ = make(tmp_path, transformers.LlamaForCausalLM(LLAMA), target_modules=QV)
    seen = []
    delta = find_delta(base, tuned, progress=seen.append)
    assert [change.name.split(".")[-2] for change in delta.changes] == QV * 2
    assert all(change.reference == change.name for change in delta.changes)
    assert sum(seen) == 2 * sum(info.nbytes for info in base.tensors.values())
    assert delta.gone == ()


def test_tokenizer_files_of_the_adapter_folder_come_along(tmp_path):
    base, _, _ = make(tmp_path, transformers.LlamaForCausalLM(LLAMA), target_modules=QV)
    (tmp_path / "adapter" / "chat_template.jinja").write_text("{{ messages }}")
    delta = find_delta(base, open_tuned(tmp_path / "adapter", base))
    assert [(change.path, change.kind) for change in delta.files] == [("chat_template.jinja", "whole")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = tmp_path_factory.mktemp("llama")
        make(path, transformers.LlamaForCausalLM(LLAMA), target_modules=QV)
    return path


def change_config(folder, target, **settings):
    target.mkdir()
    config = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    (target / "adapter_config.json").write_text(json.dumps(config | settings))
    (target / "adapter_model.safetensors").write_bytes((folder / "adapter" / "adapter_model.safetensors").read_bytes())
    return target


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"peft_type": "IA3"}, UnsupportedCheckpointError, "type IA3"),
        ({"peft_type": "LOHA"}, UnsupportedCheckpointError, "type LOHA"),
        ({"peft_type": "XLORA"}, UnsupportedCheckpointError, "type XLORA"),
        ({"layer_replication": [[0, 2], [1, 2]]}, UnsupportedCheckpointError, "layer_replication"),
        ({"use_qalora": True}, UnsupportedCheckpointError, "use_qalora"),
        ({"init_lora_weights": "pissa_niter_4"}, UnsupportedCheckpointError, "pissa_niter_4"),
        ({"use_dora": True}, DamagedCheckpointError, "not complete"),
        ({"r": 5}, DamagedCheckpointError, "has rank 4, adapter_config.json says 5"),
        ({"rank_pattern": {"(": 5}}, DamagedCheckpointError, "rank_pattern"),
        ({"lora_alpha": "six"}, DamagedCheckpointError, "alpha"),
    ],
)
def test_other_adapters_are_refused(folder, tmp_path, settings, error, message):
    base = open_checkpoint(folder / "base")
    with pytest.raises(error, match=message):
        open_tuned(change_config(folder, tmp_path / "adapter", **settings), base)


def test_an_adapter_of_another_model_is_refused(folder, tmp_path):
    transformers.GPT2LMHeadModel(GPT2).save_pretrained(tmp_path / "gpt2")
    with pytest.raises(CheckpointError, match="does not have"):
        open_tuned(folder / "adapter", open_checkpoint(tmp_path / "gpt2"))
    config = transformers.LlamaConfig(**LLAMA.to_dict() | {"hidden_size": 64})
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "wide")
    with pytest.raises(CheckpointError, match="do not fit the base"):
        open_tuned(folder / "adapter", open_checkpoint(tmp_path / "wide"))


def test_an_adapter_is_no_base(folder):
    with pytest.raises(UnsupportedCheckpointError, match="is a PEFT adapter"):
        open_checkpoint(folder / "adapter")


def test_adapter_and_whole_model_in_one_folder(folder, tmp_path):
    target = change_config(folder, tmp_path / "both")
    (target / "model.safetensors").write_bytes((folder / "base" / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="both a whole model and a PEFT adapter"):
        open_tuned(target, open_checkpoint(folder / "base"))


def test_pickled_adapter_is_refused_with_a_command_that_works(folder, tmp_path):
    target = change_config(folder, tmp_path / "pickled")
    tensors = load_file(target / "adapter_model.safetensors")
    (target / "adapter_model.safetensors").unlink()
    torch.save(tensors, target / "adapter_model.bin")
    base = open_checkpoint(folder / "base")
    with pytest.raises(UnsupportedCheckpointError) as caught:
        open_tuned(target, base)
    code = caught.value.hint.partition('python -c "')[2].rstrip('"')
    exec(code, {})
    assert find_delta(base, open_tuned(target, base)).changes


@pytest.mark.parametrize(
    ("edit", "error"),
    [
        (lambda tensors: tensors.pop(next(key for key in tensors if "lora_A" in key)), DamagedCheckpointError),
        (lambda tensors: tensors.update({"base_model.model.x.lora_diag": torch.ones(2)}), UnsupportedCheckpointError),
        (lambda tensors: tensors.update({key: tensors[key].int() for key in tensors}), DamagedCheckpointError),
        (lambda tensors: tensors.clear(), CheckpointError),
    ],
    ids=["half", "unknown", "integers", "empty"],
)
def test_strange_adapter_files(folder, tmp_path, edit, error):
    target = change_config(folder, tmp_path / "adapter")
    tensors = load_file(target / "adapter_model.safetensors")
    edit(tensors)
    save_file(tensors, target / "adapter_model.safetensors")
    with pytest.raises(error):
        open_tuned(target, open_checkpoint(folder / "base"))


@pytest.mark.filterwarnings("error")
def test_what_is_not_finite_is_handed_on_without_a_word(folder, tmp_path):
    target = change_config(folder, tmp_path / "adapter")
    tensors = load_file(target / "adapter_model.safetensors")
    save_file({key: values.fill_(1e30) for key, values in tensors.items()}, target / "adapter_model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    tuned = open_tuned(target, open_checkpoint(folder / "base"))
    assert np.isinf(tuned.update(name)).all()
    assert np.isinf(tuned.read(name).float32()).all()


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        (transformers.LlamaForCausalLM(LLAMA), {"target_modules": [*QV, "embed_tokens"]}),
        (transformers.LlamaForCausalLM(LLAMA), {"target_modules": QV, "use_rslora": True}),
        (transformers.GPT2LMHeadModel(GPT2), {"target_modules": ["c_attn"], "fan_in_fan_out": True}),
    ],
)
def test_the_factors_are_those_of_the_update(tmp_path, model, settings):
    _, tuned, _ = make(tmp_path, model, **settings)
    touched = [name for name in tuned.tensors if tuned.update(name) is not None]
    assert touched
    for name in touched:
        left, right = tuned.factors(name)
        assert left.shape[1] == right.shape[0] == 4
        np.testing.assert_allclose(left @ right, tuned.update(name), rtol=1e-6, atol=1e-9)
    untouched = next(name for name in tuned.tensors if name not in touched)
    assert tuned.factors(untouched) is None


def test_dora_has_no_factors(tmp_path):
    _, tuned, _ = make(tmp_path, transformers.LlamaForCausalLM(LLAMA), target_modules=QV, use_dora=True)
    touched = [name for name in tuned.tensors if tuned.update(name) is not None]
    assert touched
    assert {tuned.factors(name) for name in touched} == {None}


def test_an_adapter_is_packed_by_its_factors(tmp_path):
    """No entry of its delta is ever rounded; so nothing but its own directions is coded, however fine the step."""
    base, tuned, _ = make(tmp_path, transformers.LlamaForCausalLM(LLAMA), torch.bfloat16, target_modules=QV)
    delta = find_delta(base, tuned)
    for change in delta.changes:
        (plan,) = plan_change(delta, change, exact=False)
        plan.analyse(1e-9)
        (_, analysis, _), *others = plan.analyses
        assert not others
        assert analysis["all_values"].shape == (4,)
        found = plan.factors(1e-5)
        assert plan.error((found.left * found.weights) @ found.right.T) < 1e-3
        before = LossyPlan(delta, change, plan.seed)
        before.delta = dataclasses.replace(delta, tuned=_WithoutFactors(tuned))
        before.analyse(1e-9)
        assert before.scale == pytest.approx(plan.scale, rel=1e-3)


class _WithoutFactors:
    def __init__(self, tuned):
        self._tuned = tuned

    def __getattr__(self, name):
        return getattr(self._tuned, name)

    def factors(self, name):
        return None


def test_factors_that_are_not_finite_are_refused(tmp_path):
    make(tmp_path, transformers.LlamaForCausalLM(LLAMA), target_modules=QV)
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(name for name in tensors if "lora_A" in name)
    for value in (float("nan"), float("inf"), 3e38):
        tensors[name][0, 0] = value
        if value < float("inf"):
            tensors[name.replace("lora_A", "lora_B")][0, 0] = 3e38
        save_file(tensors, file)
        base = open_checkpoint(tmp_path / "base")
        delta = find_delta(base, open_tuned(tmp_path / "adapter", base))
        module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        change = next(change for change in delta.changes if change.name == f"{module}.weight")
        (plan,) = plan_change(delta, change, exact=False)
        with pytest.raises(NotFiniteError):
            plan.analyse(1e-3)


def test_a_head_that_is_the_embedding_can_have_factors_of_its_own(tmp_path):
    """As mergekit extracts them: the base has no such tensor, since it is the embedding."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**{**LLAMA.to_dict(), "tie_word_embeddings": True})
    model = transformers.LlamaForCausalLM(config)
    model.save_pretrained(tmp_path / "base")
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=["embed_tokens", "lm_head", "q_proj"]))
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, 0.0, 0.3)
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=False)
    base = open_checkpoint(tmp_path / "base")
    tuned = open_tuned(tmp_path / "adapter", base)
    assert "lm_head.weight" not in base.tensors
    layer = adapted.base_model.model.lm_head
    expected = model.model.embed_tokens.weight + layer.get_delta_weight("default")
    np.testing.assert_allclose(tuned.read("lm_head.weight").float32(), expected.detach().numpy(), rtol=1e-5, atol=1e-5)
