"""Every tensor of a checkpoint is found in the live model, byte for byte, and can be written there."""

from __future__ import annotations

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import skillpack
from skillpack.checkpoint import open_checkpoint
from skillpack.errors import ConflictError, WrongBaseError
from skillpack.grafting.live_tensors import stored
from skillpack.grafting.places import find_places
from tests.grafting.tools import bits, load, same
from tests.live import models


def resnet(folder):
    torch.manual_seed(0)
    sizes = {"embedding_size": 16, "hidden_sizes": [16, 32], "depths": [1, 1]}
    config = transformers.ResNetConfig(**sizes, layer_type="basic", num_labels=4)
    return models.save(folder, transformers.ResNetForImageClassification(config), torch.float32, tokens=False)


def gpt_oss(folder):
    torch.manual_seed(0)
    sizes = {name: models.SIZES[name] for name in models.SIZES if "initializer" not in name}
    config = transformers.GptOssConfig(**sizes, head_dim=8, num_local_experts=4, num_experts_per_tok=2)
    return models.save(folder, transformers.GptOssForCausalLM(config))


def fused(folder):
    model = load(models.mixtral(folder.with_name("plain")))
    model.save_pretrained(folder, save_original_format=False)
    models.tokenizer().save_pretrained(folder)
    return folder


def untied(folder):
    return models.llama(folder, tie_word_embeddings=False)


def live_model(folder, dtype="auto"):
    name = transformers.AutoConfig.from_pretrained(folder).architectures[0]
    return getattr(transformers, name).from_pretrained(folder, dtype=dtype).eval()


MAKERS = [models.llama, untied, models.mixtral, fused, gpt_oss, models.bert, resnet]


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_every_tensor_of_a_checkpoint_has_a_place(tmp_path, make):
    folder = make(tmp_path / "base")
    places, checkpoint = find_places(live_model(folder)), open_checkpoint(folder)
    assert checkpoint.tensors.keys() <= set(places)
    for name in checkpoint.tensors:
        assert places[name].shape == checkpoint.tensors[name].shape
        assert stored(places[name].values).digest() == checkpoint.read(name).digest()
        for module, attribute in places[name].owners:
            assert getattr(module, attribute) is places[name].tensor


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_skills_of_every_kind_of_model(tmp_path, make):
    base = make(tmp_path / "base")
    kind = type(live_model(base))
    for seed, name in enumerate(["one", "two"], 1):
        tuned = live_model(base)
        torch.manual_seed(seed)
        for parameter in tuned.parameters():
            parameter.data += 0.1 * parameter.float().std() * torch.randn(parameter.shape)
        for buffer in tuned.buffers():
            buffer.add_(1)
        options = {"save_original_format": False} if make is fused else {}
        tuned.save_pretrained(tmp_path / name, **options)
        skillpack.pack(base, tmp_path / name, name, exact=name == "one", store=tmp_path / "store")
    model = live_model(base)
    before, host = bits(model), skillpack.host(model, store=tmp_path / "store")
    for number, skills in enumerate([["one"], ["two"]] + ([] if make is resnet else [["one=0.5", "two"]])):
        host.swap(*skills)
        skillpack.install(skills, base, output=tmp_path / f"out{number}", store=tmp_path / "store")
        assert same(bits(model), bits(kind.from_pretrained(tmp_path / f"out{number}", dtype="auto")))
        host.verify()
    host.ungraft()
    assert same(bits(model), before)


def test_experts_are_parts_of_one_live_tensor(tmp_path):
    model = load(models.mixtral(tmp_path / "base"))
    places = find_places(model)
    w1, w3 = (places[f"model.layers.1.block_sparse_moe.experts.2.{name}.weight"] for name in ("w1", "w3"))
    live = model.model.layers[1].mlp.experts.gate_up_proj
    assert w1.tensor is w3.tensor is live
    half = live.shape[1] // 2
    with torch.no_grad():
        w3.values.fill_(7)
    assert (live[2, half:] == 7).all()
    assert not (live[2, :half] == 7).any()
    assert w1.extent != w3.extent


def test_a_bare_encoder_and_one_with_a_head_take_the_same_skill(tmp_path):
    base = models.bert(tmp_path / "base", "BertModel")
    tuned = models.moved(base, tmp_path / "tuned", scale=0.1)
    skillpack.pack(base, tuned, "skill", store=tmp_path / "store")
    expected = bits(transformers.BertModel.from_pretrained(skillpack_installed(tmp_path, base)))
    with_head = transformers.BertForSequenceClassification.from_pretrained(base)
    skillpack.host(with_head, store=tmp_path / "store").graft("skill")
    assert same(bits(with_head.bert), expected)


def skillpack_installed(tmp_path, base):
    skillpack.install("skill", base, output=tmp_path / "installed", store=tmp_path / "store")
    return tmp_path / "installed"


def test_names_of_older_checkpoints(tmp_path):
    base, tuned = models.bert(tmp_path / "base"), models.moved(models.bert(tmp_path / "b"), tmp_path / "tuned")
    for folder in (base, tuned):
        old = load_file(folder / "model.safetensors")
        new = {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): weight
            for name, weight in old.items()
        }
        assert new.keys() != old.keys()
        save_file(new, folder / "model.safetensors", {"format": "pt"})
    skillpack.pack(base, tuned, "skill", exact=True, store=tmp_path / "store")
    model = live_model(base)
    skillpack.host(model, store=tmp_path / "store").graft("skill")
    assert same(bits(model), bits(live_model(tuned)))


def test_a_model_of_another_kind_is_refused(tmp_path):
    base = models.bert(tmp_path / "base")
    skillpack.pack(base, models.moved(base, tmp_path / "tuned"), "skill", store=tmp_path / "store")
    host = skillpack.host(torch.nn.Linear(3, 3), store=tmp_path / "store")
    with pytest.raises(WrongBaseError, match="missing"):
        host.graft("skill")


def test_a_plain_module_without_transformers(tmp_path):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.LSTM(8, 8, 2), torch.nn.BatchNorm1d(8))
    base, tuned = tmp_path / "base.safetensors", tmp_path / "tuned.safetensors"
    save_file(model.state_dict(), base)
    save_file({name: value + 1 for name, value in model.state_dict().items()}, tuned)
    skillpack.pack(base, tuned, "skill", exact=True, store=tmp_path / "store")
    before, inputs = bits(model), torch.ones(3, 1, 8)
    expected = model[0](inputs)[0]
    host = skillpack.host(model, store=tmp_path / "store")
    host.graft("skill")
    assert {name: value.tolist() for name, value in model.state_dict().items()} == {
        name: value.tolist() for name, value in load_file(tuned).items()
    }
    assert not torch.equal(model[0](inputs)[0], expected)
    host.ungraft()
    assert same(bits(model), before)
    assert torch.equal(model[0](inputs)[0], expected)


def grown(tensors):
    return {**tensors, "0.weight": torch.cat([tensors["0.weight"], torch.ones(2, 4)])}


def shrunk(tensors):
    return {**tensors, "0.weight": tensors["0.weight"][:3].clone()}


def added(tensors):
    return {**tensors, "2.weight": torch.ones(4, 4)}


def left_out(tensors):
    return {"0.weight": tensors["0.weight"] + 1}


REFUSED = {
    grown: r"gives tensor 0\.weight the shape \[8, 4\], and the live model's has \[6, 4\]",
    shrunk: r"gives tensor 0\.weight the shape \[3, 4\]",
    added: r"adds tensor 2\.weight, which the base does not have",
    left_out: r"leaves out tensor 1\.weight, which the live model computes with",
}


@pytest.mark.parametrize("change", REFUSED, ids=lambda change: change.__name__)
def test_what_a_live_model_cannot_take(tmp_path, change):
    model = torch.nn.Sequential(torch.nn.Embedding(6, 4), torch.nn.Linear(4, 4, bias=False))
    base, tuned = tmp_path / "base.safetensors", tmp_path / "tuned.safetensors"
    save_file(model.state_dict(), base)
    save_file(change(model.state_dict()), tuned)
    skillpack.pack(base, tuned, "skill", exact=True, store=tmp_path / "store")
    before = bits(model)
    with pytest.raises(ConflictError, match=REFUSED[change]) as error:
        skillpack.host(model, store=tmp_path / "store").graft("skill")
    assert "skillpack install" in error.value.hint
    assert same(bits(model), before)
