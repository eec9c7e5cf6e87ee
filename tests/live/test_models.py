"""Opened models compute what transformers computes in fp32, without a copy of their weights."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from skillpack.errors import CheckpointError, UnsupportedCheckpointError
from skillpack.live.models import open_model, open_tokenizer
from tests.live import models

IDS = torch.tensor([[1, 17, 200, 31, 99, 6], [256, 3, 3, 250, 257, 257]])
MASK = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])


def reference(folder):
    architecture = json.loads((folder / "config.json").read_text())["architectures"][0]
    return getattr(transformers, architecture).from_pretrained(folder, dtype=torch.float32).eval()


def outputs(model):
    with torch.no_grad():
        found = model(input_ids=IDS, attention_mask=MASK)
    return found.logits if "logits" in found else found.last_hidden_state


def assert_computes_the_same(folder):
    opened = open_model(folder)
    assert not opened.training
    found, expected = outputs(opened), outputs(reference(folder))
    assert found.dtype == torch.float32
    kept = MASK.bool() if found.dim() == 3 else slice(None)
    torch.testing.assert_close(found[kept], expected[kept], rtol=1e-5, atol=1e-5)
    assert found.std() > 1e-3
    return opened


def gpt2(folder):
    torch.manual_seed(0)
    config = transformers.GPT2Config(vocab_size=models.VOCABULARY, n_positions=64, n_embd=32, n_layer=2, n_head=4)
    return models.save(folder, transformers.GPT2LMHeadModel(config))


def gemma(folder):
    torch.manual_seed(0)
    config = transformers.Gemma3TextConfig(**models.SIZES, head_dim=8)
    return models.save(folder, transformers.Gemma3ForCausalLM(config))


def t5(folder):
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=models.VOCABULARY, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, num_decoder_layers=2
    )
    return models.save(folder, transformers.T5ForConditionalGeneration(config))


MAKERS = [models.llama, models.mixtral, gpt2, gemma, models.bert]


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_logits_are_those_of_transformers_in_fp32(tmp_path, make, dtype):
    folder = make(tmp_path / "model")
    if dtype != torch.bfloat16:
        models.save(folder, reference(folder), dtype)
    assert_computes_the_same(folder)


def test_a_module_may_read_the_dtype_of_another_modules_weight(tmp_path):
    """T5 casts to the dtype of ``self.wo.weight`` before it calls ``self.wo``."""
    folder = t5(tmp_path / "model")
    found = [
        model(input_ids=IDS, attention_mask=MASK, decoder_input_ids=IDS[:, :3]).logits
        for model in (open_model(folder), reference(folder))
    ]
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


def test_weights_keep_their_dtype_and_lie_in_the_file(tmp_path):
    opened = open_model(models.llama(tmp_path / "model"))
    stored = load_file(tmp_path / "model" / "model.safetensors")
    assert {name: weight.dtype for name, weight in opened.named_parameters()} == dict.fromkeys(stored, torch.bfloat16)
    for name, weight in opened.named_parameters():
        assert torch.equal(weight, stored[name])
        assert not weight.requires_grad
    assert opened.model.rotary_emb.inv_freq.dtype == torch.float32
    assert str(tmp_path / "model" / "model.safetensors") in Path("/proc/self/maps").read_text()


def test_tied_weights_stay_tied(tmp_path):
    opened = assert_computes_the_same(models.llama(tmp_path / "tied"))
    names = [name for name, _ in opened.named_parameters()]
    assert "lm_head.weight" not in names
    untied = open_model(models.llama(tmp_path / "untied", tie_word_embeddings=False))
    assert "lm_head.weight" in [name for name, _ in untied.named_parameters()]


def test_a_tied_weight_that_is_stored_twice(tmp_path):
    folder = models.llama(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    embedding = weights["model.embed_tokens.weight"]
    save_file({**weights, "lm_head.weight": embedding.clone()}, folder / "model.safetensors", {"format": "pt"})
    assert len(list(assert_computes_the_same(folder).parameters())) == len(weights)
    save_file({**weights, "lm_head.weight": embedding + 1}, folder / "model.safetensors", {"format": "pt"})
    assert len(list(assert_computes_the_same(folder).parameters())) == len(weights) + 1


def test_a_sharded_model(tmp_path):
    folder = models.llama(tmp_path / "model")
    reference(folder).to(torch.bfloat16).save_pretrained(tmp_path / "shards", max_shard_size="20kB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    assert torch.equal(outputs(open_model(tmp_path / "shards")), outputs(open_model(folder)))


def test_a_base_without_a_head(tmp_path):
    assert_computes_the_same(models.bert(tmp_path / "bert", "BertModel"))
    torch.manual_seed(0)
    config = transformers.BertConfig(vocab_size=258, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    without_pooler = models.save(tmp_path / "plain", transformers.BertModel(config, add_pooling_layer=False))
    assert_computes_the_same(without_pooler)


def test_names_that_transformers_converts(tmp_path):
    """Experts that are stored one by one, and norms with the names of TensorFlow."""
    mixtral = models.mixtral(tmp_path / "mixtral")
    assert "model.layers.0.block_sparse_moe.experts.0.w1.weight" in load_file(mixtral / "model.safetensors")
    folder = models.bert(tmp_path / "bert")
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): weight
        for name, weight in load_file(folder / "model.safetensors").items()
    }
    new = outputs(open_model(folder))
    save_file(old, folder / "model.safetensors", {"format": "pt"})
    torch.testing.assert_close(outputs(open_model(folder)), new)


def test_greedy_answers_are_those_of_transformers(tmp_path):
    folder = models.llama(tmp_path / "model")
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "attention_mask": MASK[:1]}
    found = open_model(folder).generate(IDS[:1], **options)
    assert torch.equal(found, reference(folder).generate(IDS[:1], **options))


def test_the_random_state_is_left_alone(tmp_path):
    folder = models.llama(tmp_path / "model")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    open_model(folder)
    assert torch.equal(torch.rand(3), expected)


def change(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"architectures": None}, CheckpointError, "does not name the model's class"),
        (
            {"architectures": ["MadeUpForCausalLM"]},
            UnsupportedCheckpointError,
            "has no model class 'MadeUpForCausalLM'",
        ),
        ({"architectures": ["pipeline"]}, UnsupportedCheckpointError, "has no model class 'pipeline'"),
        ({"model_type": "made_up"}, UnsupportedCheckpointError, "does not know this kind of model"),
        (
            {"architectures": ["LlamaForSequenceClassification"]},
            CheckpointError,
            "needs weights that are not there: score",
        ),
        ({"hidden_size": 64}, CheckpointError, "cannot load it"),
    ],
)
def test_what_cannot_be_opened_is_explained(tmp_path, changes, error, message):
    folder = models.llama(tmp_path / "model")
    change(folder, **changes)
    with pytest.raises(error, match=message) as raised:
        open_model(folder)
    assert raised.value.hint or "cannot load" in message


def test_code_of_a_model_is_never_run(tmp_path):
    folder = models.llama(tmp_path / "model")
    change(folder, model_type="mine", auto_map={"AutoConfig": "mine.Config", "AutoModelForCausalLM": "mine.Model"})
    (folder / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    with pytest.raises(UnsupportedCheckpointError, match="never run"):
        raise_with_hint(folder)
    assert not (tmp_path / "ran").exists()


def raise_with_hint(folder):
    try:
        open_model(folder)
    except UnsupportedCheckpointError as error:
        raise UnsupportedCheckpointError(error.hint) from error


def test_a_lone_file_and_a_folder_without_tokenizer(tmp_path):
    folder = models.llama(tmp_path / "model")
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        open_model(folder / "model.safetensors")
    assert open_tokenizer(folder)("a").input_ids
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="tokenizer cannot be opened"):
        open_tokenizer(folder)


def test_opening_prints_nothing(tmp_path):
    models.mixtral(tmp_path / "model")
    models.bert(tmp_path / "bert", "BertModel")
    change(tmp_path / "bert", architectures=["BertForSequenceClassification"])
    code = (
        "import sys; from skillpack.live.models import open_model; from skillpack.errors import CheckpointError\n"
        "open_model(sys.argv[1] + '/model')\n"
        "try: open_model(sys.argv[1] + '/bert')\n"
        "except CheckpointError as error: assert 'classifier' in error.message\n"
        "else: raise SystemExit('opened')"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_buffers_that_are_stored(tmp_path):
    torch.manual_seed(0)
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], num_labels=3)
    model = transformers.ResNetForImageClassification(config)
    with torch.no_grad():
        model.train()(torch.randn(4, 3, 32, 32))
    folder = models.save(tmp_path / "model", model, tokens=False)
    opened = open_model(folder)
    assert opened.resnet.embedder.embedder.normalization.running_mean.abs().max() > 0
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(opened(image).logits, reference(folder)(image).logits, rtol=1e-5, atol=1e-5)


def test_weights_that_transformers_turns_under_the_same_name(tmp_path):
    """The experts of this model are stored with their last two axes swapped."""
    torch.manual_seed(0)
    text = {
        **{name: models.SIZES[name] for name in models.SIZES if name not in {"initializer_range", "pad_token_id"}},
        "head_dim": 8,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 1, 1]},
    }
    vision = {"depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 32}
    config = transformers.Qwen3VLMoeConfig(text_config=text, vision_config={**vision, "deepstack_visual_indexes": [0]})
    folder = models.save(tmp_path / "model", transformers.Qwen3VLMoeForConditionalGeneration(config))
    assert_computes_the_same(folder)


def test_a_pooler_that_a_classifier_needs(tmp_path):
    folder = models.bert(tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if "pooler" not in name}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(CheckpointError, match=r"not there: bert\.pooler"):
        open_model(folder)


def test_the_way_to_generate_is_that_of_the_folder(tmp_path):
    folder = models.llama(tmp_path / "model")
    assert open_model(folder).generation_config.eos_token_id == 257
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [65, 257], "temperature": 0.5}))
    assert open_model(folder).generation_config.eos_token_id == [65, 257]
    (folder / "generation_config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"generation_config\.json cannot be read"):
        open_model(folder)
