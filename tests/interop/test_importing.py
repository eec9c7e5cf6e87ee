"""Adapters as skills: nothing is lost on the way in, and the same adapter comes out again."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import skillpack
from skillpack.checkpoint import open_checkpoint, open_tuned
from skillpack.errors import UnsupportedCheckpointError, UsageError
from tests.interop.conftest import adapter, gpt2, opened, outputs, with_adapter
from tests.live.models import llama

QV = ["q_proj", "v_proj"]


def assert_installs_as_merged(library, base, folder, name="math"):
    installed = library.room / f"installed-{name}"
    skillpack.install(name, base, output=installed, store=library.store)
    merged, found = open_tuned(folder, open_checkpoint(base)), open_checkpoint(installed)
    assert merged.tensors.keys() == found.tensors.keys()
    for tensor in merged.tensors:
        assert merged.read(tensor).digest() == found.read(tensor).digest()


def assert_same_factors(first, second):
    ours, theirs = (load_file(folder / "adapter_model.safetensors") for folder in (first, second))
    assert ours.keys() == theirs.keys()
    # What is whole has the base's dtype afterwards, as in the merged model.
    for key, tensor in ((key, tensor) for key, tensor in ours.items() if ".lora_" in key):
        assert tensor.dtype == theirs[key].dtype
        assert torch.equal(tensor.view(torch.uint8), theirs[key].view(torch.uint8)), key
    assert scales(first) == scales(second)


def scales(folder):
    """Rank and alpha of each module, as peft resolves them."""
    import peft

    config = peft.LoraConfig.from_pretrained(folder)
    weights = load_file(folder / "adapter_model.safetensors")
    found = {}
    for key in weights:
        if "lora_A" in key or "lora_embedding_A" in key:
            module = key.partition(".lora_")[0].removeprefix("base_model.model.")
            rank, alpha = (
                pattern.get(peft.utils.other.get_pattern_key(pattern, module), usual)
                for pattern, usual in ((config.rank_pattern, config.r), (config.alpha_pattern, config.lora_alpha))
            )
            found[module] = (rank, alpha, config.use_rslora)
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": QV},
        {"target_modules": QV, "use_rslora": True, "r": 3},
        {
            "target_modules": QV,
            "rank_pattern": {"q_proj": 2},
            "alpha_pattern": {r"model\.layers\.0.*": 12, "v_proj": 5},
        },
        {"target_modules": ["embed_tokens", "o_proj"]},
        {"target_modules": QV, "modules_to_save": ["norm"]},
    ],
    ids=["plain", "rslora", "patterns", "embedding", "saved"],
)
def test_there_and_back(library, settings, dtype):
    base = llama(library.room / "base", tie_word_embeddings=False)
    folder = adapter(base, library.room / "adapter", dtype=dtype, **settings)
    report = skillpack.import_adapter(folder, base, "math", store=library.store)
    assert {part.codec for entry in report.manifest.tensors for part in entry.parts} <= {"factors", "exact"}
    assert all(entry.error == 0 for entry in report.manifest.tensors)
    assert_installs_as_merged(library, base, folder)
    export = library.export(base, strict=True)
    assert_same_factors(export.folder, folder)


def test_gpt2(library):
    base = gpt2(library.room / "base")
    folder = adapter(base, library.room / "adapter", target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True)
    skillpack.import_adapter(folder, base, "math", store=library.store)
    assert_installs_as_merged(library, base, folder)
    assert_same_factors(library.export(base, strict=True).folder, folder)


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"lora_bias": True}, {"trainable_token_indices": [3, 7]}])
def test_what_has_no_factors_of_its_own_is_exact_too(library, settings):
    base = gpt2(library.room / "base", tie_word_embeddings=False)
    folder = adapter(base, library.room / "adapter", target_modules=["c_attn"], fan_in_fan_out=True, **settings)
    skillpack.import_adapter(folder, base, "math", store=library.store)
    assert_installs_as_merged(library, base, folder)
    export = library.export(base)
    found, own = library.difference(base, export)
    assert found <= 1e-3 * max(1, own)


def test_a_skill_is_no_larger_than_its_adapter(library):
    """The merged model is twelve times as large."""
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4}
    base = llama(library.room / "base", **sizes)
    folder = adapter(base, library.room / "adapter", dtype=torch.bfloat16, target_modules=[*QV, "up_proj"], r=16)
    report = skillpack.import_adapter(folder, base, "math", store=library.store)
    assert report.size < (folder / "adapter_model.safetensors").stat().st_size
    assert report.size < (base / "model.safetensors").stat().st_size / 12


def test_as_mergekit_extracts_them(library):
    """Factors of the embedding and of the head that is tied to it, ranks by full names, all norms whole."""
    base = llama(library.room / "base")
    torch.manual_seed(0)
    tensors, ranks = {}, {"model.embed_tokens": 4, "lm_head": 4, "model.layers.0.self_attn.q_proj": 2}
    for module, rank in ranks.items():
        rows = 258 if "layers" not in module else 32
        shapes = (rank, 258), (32, rank)
        if module != "model.embed_tokens":
            shapes = (rank, 32), (rows, rank)
        keys = ("lora_embedding_A", "lora_embedding_B") if "embed" in module else ("lora_A.weight", "lora_B.weight")
        for key, shape in zip(keys, shapes, strict=True):
            tensors[f"base_model.model.{module}.{key}"] = (0.1 * torch.randn(shape)).to(torch.bfloat16)
    tensors["base_model.model.model.norm.weight"] = torch.full((32,), 1.25, dtype=torch.bfloat16)
    folder = library.room / "adapter"
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 4,
        "rank_pattern": {"model.layers.0.self_attn.q_proj": 2},
        "alpha_pattern": {"model.layers.0.self_attn.q_proj": 2},
        "target_modules": ["embed_tokens", "lm_head", "q_proj"],
        "modules_to_save": ["input_layernorm", "post_attention_layernorm", "norm"],
        "task_type": "CAUSAL_LM",
        "bias": "none",
        "fan_in_fan_out": False,
    }
    (folder / "adapter_config.json").write_text(json.dumps(config))
    skillpack.import_adapter(folder, base, "math", store=library.store)
    assert_installs_as_merged(library, base, folder)
    export = library.export(base, strict=True)
    assert_same_factors(export.folder, folder)


@pytest.mark.parametrize("make", [llama, gpt2])
def test_a_live_model_applies_the_factors_themselves(library, make):
    base, turned = make(library.room / "base", dtype=torch.float32), make is gpt2
    targets = ["c_attn"] if turned else QV
    folder = adapter(base, library.room / "adapter", target_modules=targets, r=2, fan_in_fan_out=turned)
    skillpack.import_adapter(folder, base, "math", store=library.store)
    model = opened(base)
    before = outputs(model)
    host = skillpack.host(model, mode="overlay", store=library.store)
    host.graft("math")
    (resident,) = host.resident
    own = sum(tensor.nbytes for tensor in load_file(folder / "adapter_model.safetensors").values())
    assert own <= resident.nbytes < 1.05 * own
    expected = outputs(with_adapter(base, folder))
    assert torch.allclose(outputs(model), expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(before, expected, rtol=1e-2, atol=1e-2)


def test_what_is_no_adapter_is_refused(library, tiny):
    with pytest.raises(UsageError, match=r"no adapter_config\.json"):
        skillpack.import_adapter(tiny, tiny, store=library.store)
    folder = adapter(tiny, library.room / "adapter", target_modules=QV)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "peft_type": "IA3"}))
    with pytest.raises(UnsupportedCheckpointError, match="IA3"):
        skillpack.import_adapter(folder, tiny, store=library.store)


def test_factors_that_are_not_finite_are_kept_too(library, tiny):
    folder = adapter(tiny, library.room / "adapter", target_modules=QV)
    tensors = load_file(folder / "adapter_model.safetensors")
    next(iter(tensors.values()))[0, 0] = float("nan")
    save_file(tensors, folder / "adapter_model.safetensors")
    report = skillpack.import_adapter(folder, tiny, "math", store=library.store)
    assert "exact" in {part.codec for entry in report.manifest.tensors for part in entry.parts}
    assert_installs_as_merged(library, tiny, folder)
