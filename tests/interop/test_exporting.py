"""Skills as adapters: peft loads them and the model says what the installed one says; vLLM's rules are kept."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file

import skillpack
from skillpack.errors import SkillPackError, UsageError, WrongBaseError
from tests.interop.conftest import adapter, changed, gpt2
from tests.interop.vllm_rules import accepted
from tests.live.models import SIZES, bert, llama

LLAMA_LAYERS = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def config_of(export):
    return json.loads((export.folder / "adapter_config.json").read_text())


def ways(export):
    return {tensor.name: tensor.how for tensor in export.tensors}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("goal", [{"exact": True}, {"quality": 0.9}], ids=["exact", "coded"])
def test_all_of_a_language_model(library, goal, tied):
    base = llama(library.room / "base", dtype=torch.float32, tie_word_embeddings=tied)
    library.skill(base, changed(base, library.room / "tuned", rank=3), **goal)
    export = library.export(base)
    assert export.lost == ()
    found, own = library.difference(base, export)
    assert found <= 1e-4 * max(1, own)
    assert own > 0.1
    assert set(ways(export).values()) <= {"factors", "truncated", "whole"}
    assert export.error <= 0.011


def test_factors_are_written_as_they_were_coded(library, tiny):
    first = changed(tiny, library.room / "first", rank=3, only="proj")
    library.skill(tiny, changed(first, library.room / "tuned", rank=2, only="q_proj", seed=3), quality=0.9)
    export = library.export(tiny)
    assert set(ways(export).values()) == {"factors"}
    assert export.error == 0
    found, own = library.difference(tiny, export)
    assert found <= 1e-5 * max(1, own)
    ranks = {tensor.rank for tensor in export.tensors}
    assert len(ranks) > 1
    config = config_of(export)
    assert set(config["rank_pattern"].values()) | {config["r"]} == ranks


def test_patterns_name_one_module_each(library):
    """Twelve layers: layers.1 is also how the names of layers.10 and layers.11 begin."""
    base = llama(library.room / "base", dtype=torch.float32, num_hidden_layers=12)
    library.skill(base, changed(base, library.room / "tuned", rank=3, only="q_proj"), quality=0.8)
    export = library.export(base)
    found, own = library.difference(base, export)
    assert found <= 1e-4 * max(1, own)


@pytest.mark.parametrize("only", ["", "bias", "ln_", "c_attn"])
def test_gpt2_whose_weights_are_turned(library, only):
    base = gpt2(library.room / "base")
    library.skill(base, changed(base, library.room / "tuned", rank=2, only=only))
    export = library.export(base)
    assert export.lost == ()
    found, own = library.difference(base, export)
    assert found <= 1e-4 * max(1, own)
    assert own > 1e-3
    if only == "bias":
        assert set(ways(export).values()) == {"bias"}


@pytest.mark.parametrize("model_class", ["BertModel", "BertForMaskedLM"])
def test_an_encoder(library, model_class):
    base = bert(library.room / "base", model_class)
    library.skill(base, changed(base, library.room / "tuned", rank=2))
    export = library.export(base)
    assert export.lost == ()
    found, own = library.difference(base, export)
    assert found <= 1e-4 * max(1, own)


def test_a_classifier_on_the_base_of_an_encoder(library):
    base = bert(library.room / "base", "BertModel")
    torch.manual_seed(5)
    config = transformers.AutoConfig.from_pretrained(base, num_labels=3)
    model = transformers.BertForSequenceClassification.from_pretrained(base, config=config)
    model.save_pretrained(library.room / "start")
    library.skill(base, changed(library.room / "start", library.room / "tuned", rank=2))
    export = library.export(base)
    assert ways(export)["classifier.weight"] == "whole"
    assert [lost.name for lost in export.lost] == ["config.json"]
    found, _ = library.difference(base, export, like=library.room / "tuned")
    assert found <= 1e-4
    with pytest.raises(SkillPackError, match=r"config\.json"):
        library.export(base, strict=True)


def test_a_convolution(library):
    torch.manual_seed(0)
    config = transformers.ResNetConfig(
        embedding_size=16, hidden_sizes=[16, 24], depths=[1, 1], layer_type="basic", num_labels=3
    )
    model = transformers.ResNetForImageClassification(config).eval()
    model.save_pretrained(library.room / "base")
    base = library.room / "base"
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "convolution.weight" in name:
                weight.add_(
                    0.05 * torch.randn(weight.shape[0], 2) @ torch.randn(2, weight[0].numel()).view(2, -1)
                    if weight.dim() == 2
                    else 0.05 * (torch.randn(weight.shape[0], 2) @ torch.randn(2, weight[0].numel())).view(weight.shape)
                )
    model.save_pretrained(library.room / "tuned")
    library.skill(base, library.room / "tuned")
    export = library.export(base)
    assert set(ways(export).values()) <= {"truncated", "factors"}
    import peft

    pixels = torch.randn(1, 3, 32, 32)
    plain = transformers.ResNetForImageClassification.from_pretrained(base).eval()
    adapted = peft.PeftModel.from_pretrained(plain, export.folder).eval()
    with torch.no_grad():
        torch.testing.assert_close(adapted(pixels).logits, model(pixels).logits, rtol=1e-3, atol=1e-3)


def test_a_few_rows_of_the_embedding(library, tiny):
    model = transformers.LlamaForCausalLM.from_pretrained(tiny)
    with torch.no_grad():
        model.model.embed_tokens.weight[[3, 200, 7]] += 0.5
    model.save_pretrained(library.room / "tuned")
    library.skill(tiny, library.room / "tuned")
    export = library.export(tiny)
    assert ways(export) == {"model.embed_tokens.weight": "rows"}
    assert config_of(export)["trainable_token_indices"] == {"model.embed_tokens": [3, 7, 200]}
    found, own = library.difference(tiny, export)
    assert found <= 1e-5
    assert own > 0.1


def test_new_rows_are_left_out_and_said(library, tiny):
    model = transformers.LlamaForCausalLM.from_pretrained(tiny)
    model.resize_token_embeddings(SIZES["vocab_size"] + 6)
    with torch.no_grad():
        model.model.layers[0].self_attn.q_proj.weight += 0.1
    model.save_pretrained(library.room / "tuned")
    library.skill(tiny, library.room / "tuned")
    export = library.export(tiny)
    lost = {lost.name: lost.reason for lost in export.lost}
    assert "rows" in lost["model.embed_tokens.weight"]
    assert lost.keys() == {"model.embed_tokens.weight", "config.json"}
    with pytest.raises(SkillPackError, match="more or fewer rows"):
        library.export(tiny, strict=True)


def test_experts_that_live_in_one_tensor_are_left_out_and_said(library):
    from tests.live.models import mixtral

    base = mixtral(library.room / "base", torch.float32)
    library.skill(base, changed(base, library.room / "tuned"))
    export = library.export(base)
    # The router has another name in the live model too.
    assert all(".block_sparse_moe." in lost.name for lost in export.lost)
    assert len(export.lost) == 2 * (4 * 3 + 1)


@pytest.mark.parametrize("rank", [1, 4])
def test_a_limit_on_the_rank_is_kept_and_its_error_told(library, tiny, rank):
    library.skill(tiny, changed(tiny, library.room / "tuned", only="up_proj"))
    export = library.export(tiny, rank=rank)
    base, tuned = load_file(tiny / "model.safetensors"), load_file(library.room / "tuned" / "model.safetensors")
    factors = load_file(export.folder / "adapter_model.safetensors")
    assert export.rank == rank
    for tensor in export.tensors:
        module = f"base_model.model.{tensor.name.removesuffix('.weight')}"
        delta = tuned[tensor.name] - base[tensor.name]
        rest = delta - factors[f"{module}.lora_B.weight"] @ factors[f"{module}.lora_A.weight"]
        assert tensor.error == pytest.approx(float(rest.norm() / delta.norm()), rel=1e-3)
        best = torch.linalg.svdvals(delta)[rank:].square().sum().sqrt() / delta.norm()
        assert tensor.error == pytest.approx(float(best), rel=1e-3)
    with pytest.raises(SkillPackError, match="only approximately"):
        library.export(tiny, rank=rank, strict=True)


def test_a_share_of_the_energy_is_kept(library, tiny):
    library.skill(tiny, changed(tiny, library.room / "tuned", only="up_proj"))
    export = library.export(tiny, energy=0.9)
    assert {tensor.how for tensor in export.tensors} == {"truncated"}
    assert 0.2 < export.error <= 0.1**0.5


def test_a_weight_scales_the_adapter(library, tiny):
    library.skill(tiny, changed(tiny, library.room / "tuned", rank=2, only="proj"), quality=0.9)
    export = library.export(tiny, "math=-0.5")
    found, _ = library.difference(tiny, export, "math=-0.5")
    assert found <= 1e-4


def test_half_precision_says_what_it_costs(library, tiny):
    library.skill(tiny, changed(tiny, library.room / "tuned", rank=2, only="proj"), quality=0.9)
    export = library.export(tiny, dtype="bfloat16")
    assert all(
        tensor.dtype == torch.bfloat16 for tensor in load_file(export.folder / "adapter_model.safetensors").values()
    )
    assert 1e-4 < export.error < 1e-2


def test_equal_exports_give_equal_bytes(library, tiny):
    library.skill(tiny, changed(tiny, library.room / "tuned", rank=2), quality=0.9)
    first, second = (library.export(tiny) for _ in range(2))
    assert {path.name: path.read_bytes() for path in first.folder.iterdir()} == {
        path.name: path.read_bytes() for path in second.folder.iterdir()
    }


@pytest.mark.parametrize("tied", [True, False])
def test_vllm_takes_what_is_for_it(library, tied):
    base = llama(library.room / "base", dtype=torch.float32, tie_word_embeddings=tied)
    library.skill(base, changed(base, library.room / "tuned", rank=3), quality=0.9)
    export = library.export(base, format="vllm")
    modules = accepted(export.folder, LLAMA_LAYERS | {"embed_tokens", "lm_head"}, max_lora_rank=export.vllm_rank)
    lost = {lost.name for lost in export.lost}
    assert {"model.norm.weight", "model.layers.0.input_layernorm.weight"} <= lost
    assert ("model.embed_tokens.weight" in lost) == tied
    assert ("lm_head" in modules) == (not tied)
    installed = library.room / "installed"
    skillpack.install("math", base, output=installed, store=library.store)
    before, after = (load_file(folder / "model.safetensors") for folder in (base, installed))
    for name, (down, up, scale) in modules.items():
        delta = after[f"{name}.weight"] - before[f"{name}.weight"]
        product = scale * up @ down
        torch.testing.assert_close(product.T if name == "model.embed_tokens" else product, delta, rtol=1e-3, atol=1e-5)
    with pytest.raises(SkillPackError, match="linear layers"):
        library.export(base, format="vllm", strict=True)


def test_vllm_gets_one_rank_and_the_largest_that_it_takes(library, tiny, monkeypatch):
    folder = adapter(
        tiny,
        library.room / "adapter",
        target_modules=["q_proj", "v_proj"],
        rank_pattern={"q_proj": 2},
        alpha_pattern={"v_proj": 5},
    )
    skillpack.import_adapter(folder, tiny, "math", store=library.store)
    export = library.export(tiny, format="vllm")
    assert (export.rank, export.vllm_rank) == (4, 8)
    modules = accepted(export.folder, LLAMA_LAYERS, max_lora_rank=8)
    given = load_file(folder / "adapter_model.safetensors")
    for name, (down, up, scale) in modules.items():
        key, alpha, rank = f"base_model.model.{name}", *((5, 4) if "v_proj" in name else (6, 2))
        wanted = alpha / rank * given[f"{key}.lora_B.weight"] @ given[f"{key}.lora_A.weight"]
        torch.testing.assert_close(scale * up @ down, wanted, rtol=1e-5, atol=1e-6)
    from skillpack.interop import exporting

    rules = exporting._RULES["vllm"]._replace(max_rank=2)
    monkeypatch.setitem(exporting._RULES, "vllm", rules)
    cut = library.export(tiny, format="vllm")
    assert cut.rank == 2
    assert cut.error > 0.1


def test_what_cannot_be_done_is_refused_and_leaves_nothing(library, tiny):
    library.skill(tiny, changed(tiny, library.room / "tuned", only="norm"))
    other = llama(library.room / "other", seed=9, dtype=torch.float32)
    with pytest.raises(UsageError, match="no tensor of skill math"):
        library.export(tiny, format="vllm")
    library.skill(tiny, changed(tiny, library.room / "all"), "all")
    with pytest.raises(WrongBaseError):
        library.export(other, "all")
    with pytest.raises(UsageError, match="rank of 0"):
        library.export(tiny, rank=0)
    with pytest.raises(UsageError, match="no share"):
        library.export(tiny, energy=1.5)
    with pytest.raises(UsageError, match=r"no config\.json"):
        library.export(tiny / "model.safetensors")
    (library.room / "full").mkdir()
    before = sorted(library.room.iterdir())
    (library.room / "full" / "file").touch()
    with pytest.raises(UsageError, match="not an empty folder"):
        skillpack.export_adapter("math", library.room / "full", tiny, store=library.store)
    assert sorted(library.room.iterdir()) == before
    assert not list(library.room.glob("*adapter*"))


def test_a_full_disk_leaves_nothing(library, tiny, monkeypatch):
    library.skill(tiny, changed(tiny, library.room / "tuned", only="q_proj"))

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("skillpack_store.disk.sync", full)
    before = sorted(library.room.iterdir())
    with pytest.raises(SkillPackError, match="disk is full"):
        library.export(tiny)
    assert sorted(library.room.iterdir()) == before


def test_only_norms_still_load(library, tiny):
    library.skill(tiny, changed(tiny, library.room / "tuned", only="norm"))
    export = library.export(tiny)
    assert set(ways(export).values()) == {"whole"}
    found, own = library.difference(tiny, export)
    assert found <= 1e-5
    assert own > 1e-3


def test_a_changed_tokenizer_comes_along(library, tiny):
    changed(tiny, library.room / "tuned", only="q_proj")
    (library.room / "tuned" / "chat_template.jinja").write_text("{{ messages }}")
    library.skill(tiny, library.room / "tuned")
    export = library.export(tiny)
    assert (export.folder / "chat_template.jinja").read_text() == "{{ messages }}"
    assert transformers.AutoTokenizer.from_pretrained(export.folder).chat_template == "{{ messages }}"
    assert export.lost == ()


def test_the_base_is_named_as_peft_looks_for_it(library, tiny):
    from skillpack.interop.adapter_folder import adapter_config
    from skillpack.interop.drafting import Draft
    from skillpack.interop.structure import Structure

    odd = llama(library.room / "me@home", dtype=torch.float32)
    structure = Structure("LlamaForCausalLM", {}, {})
    for base, named in ((str(odd), (str(odd), None)), ("org/base@abc123", ("org/base", "abc123"))):
        config = adapter_config(Draft(), structure, base)
        assert (config["base_model_name_or_path"], config["revision"]) == named
    library.skill(tiny, changed(tiny, library.room / "tuned", only="q_proj"))
    assert config_of(library.export(tiny))["base_model_name_or_path"] == str(tiny)
