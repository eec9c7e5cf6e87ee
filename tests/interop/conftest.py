from __future__ import annotations

import warnings
from types import SimpleNamespace

import peft
import pytest
import torch
import transformers

import skillpack
from tests.live.models import bert, llama, save, tokenizer


@pytest.fixture(autouse=True)
def quiet():
    """What peft and transformers warn of is not what is tested."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def changed(source, folder, *, rank=None, scale=0.02, only="", seed=1):
    """A copy of a model whose weights are moved at random, matrices by a product of this rank if it is given."""
    model = getattr(transformers, transformers.AutoConfig.from_pretrained(source).architectures[0])
    model = model.from_pretrained(source, dtype="auto")
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if only in name:
                move = torch.randn(weight.shape)
                if rank and weight.dim() == 2:
                    move = torch.randn(weight.shape[0], rank) @ torch.randn(rank, weight.shape[1]) / rank**0.5
                weight.add_((scale * move).to(weight.dtype))
    return save(folder, model, model.dtype)


def adapter(source, folder, *, dtype=None, prepare=None, **settings):
    """A random LoRA adapter of a model, saved as peft saves it."""
    torch.manual_seed(2)
    model_class = getattr(transformers, transformers.AutoConfig.from_pretrained(source).architectures[0])
    model = peft.get_peft_model(
        model_class.from_pretrained(source, dtype="auto"), peft.LoraConfig(**{"r": 4, "lora_alpha": 6, **settings})
    )
    for parameter in model.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, 0.0, 0.2)
            parameter.data = parameter.data.to(dtype or parameter.dtype)
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def outputs(model, seed=0):
    """What a model says about some tokens."""
    ids = torch.randint(0, 250, (2, 12), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        found = model.float().eval()(input_ids=ids)
    return found.logits if hasattr(found, "logits") else found.last_hidden_state


def opened(folder, **settings):
    model_class = getattr(transformers, transformers.AutoConfig.from_pretrained(folder).architectures[0])
    return model_class.from_pretrained(folder, dtype=torch.float32, **settings)


def with_adapter(base, folder, like=None):
    """The base with an adapter, as peft opens it; `like` is a folder with the configuration to open the base with."""
    config = transformers.AutoConfig.from_pretrained(like or base)
    model = getattr(transformers, config.architectures[0]).from_pretrained(base, config=config, dtype=torch.float32)
    return peft.PeftModel.from_pretrained(model, folder)


@pytest.fixture
def library(tmp_path):
    """A place for models, and functions that pack, export and compare."""
    store = tmp_path / "store"

    def skill(base, tuned, name="math", **goal):
        return skillpack.pack(base, tuned, name, store=store, **(goal or {"exact": True}))

    def export(base, address="math", **options):
        folder = tmp_path / f"adapter-{len(list(tmp_path.iterdir()))}"
        return skillpack.export_adapter(address, folder, base, store=store, **options)

    def difference(base, exported, address="math", like=None):
        """Largest difference of the outputs from those of the installed model, and the skill's own."""
        folder = tmp_path / f"installed-{len(list(tmp_path.iterdir()))}"
        skillpack.install(address, base, output=folder, store=store)
        wanted = outputs(opened(folder))
        found = outputs(with_adapter(base, exported.folder, folder if like is None else like))
        return float((found - wanted).abs().max()), float((outputs(opened(base)) - wanted).abs().max()) if (
            like is None
        ) else None

    return SimpleNamespace(room=tmp_path, store=store, skill=skill, export=export, difference=difference)


@pytest.fixture
def tiny(tmp_path):
    """A tiny Llama in fp32 whose head is its embedding."""
    return llama(tmp_path / "base", dtype=torch.float32)


def gpt2(folder, **settings):
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=258, n_positions=64, n_embd=32, n_layer=2, n_head=4, bos_token_id=256, eos_token_id=257, **settings
    )
    model = transformers.GPT2LMHeadModel(config)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("bias"):
                weight.normal_(0, 0.1)
    return save(folder, model, torch.float32)


__all__ = ["bert", "gpt2", "llama", "tokenizer"]
