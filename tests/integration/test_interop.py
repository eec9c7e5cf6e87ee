"""SmolLM2 with the tools around it: PEFT opens an exported skill, and trainings end with a skill."""

from __future__ import annotations

import warnings

import datasets
import peft
import pytest
import torch
import transformers
import trl

import skillpack
from recipes.models import smollm2
from skillpack.checkpoint import open_checkpoint
from skillpack.interop.callback import SkillPackCallback
from skillpack.interop.updates import delta_of

pytestmark = [pytest.mark.real_model, pytest.mark.xdist_group("smollm2")]

TEXT = "Write 21 in Spanish words. The answer is veintiuno."


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def opened(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def logits(model):
    ids = transformers.AutoTokenizer.from_pretrained(smollm2())(TEXT, return_tensors="pt")
    with torch.no_grad():
        return model(**ids).logits


def without_rounding(base, name, store):
    """The base in fp32 plus what a skill adds."""
    model, checkpoint = opened(base), open_checkpoint(base)
    skill = skillpack.show(name, store=store).skill
    weights = model.state_dict()
    for entry in skill.manifest.tensors:
        reference = checkpoint.read(entry.reference)
        weights[entry.name].copy_(torch.from_numpy(reference.float32() + delta_of(skill, entry, reference)))
    return model


def test_peft_opens_an_exported_skill(smol, room):
    export = skillpack.export_adapter("spanish", room / "adapter", smol.base, store=smol.store)
    assert export.lost == ()
    assert export.error == 0
    wanted = logits(without_rounding(smol.base, "spanish", smol.store))
    found = logits(peft.PeftModel.from_pretrained(opened(smol.base), room / "adapter"))
    own = (wanted - logits(opened(smol.base))).abs().max()
    assert own > 1
    assert (found - wanted).abs().max() <= 2e-4


def test_a_training_with_trl_of_an_adapter_ends_with_a_skill(room):
    base = smollm2()
    turns = [{"role": "user", "content": "2 + 2"}, {"role": "assistant", "content": "4"}]
    callback = SkillPackCallback(base, "sums", exact=True, store=room / "store")
    trainer = trl.SFTTrainer(
        opened(base),
        trl.SFTConfig(str(room / "out"), max_steps=2, report_to=[], use_cpu=True, bf16=False, save_strategy="no"),
        train_dataset=datasets.Dataset.from_list([{"messages": turns}] * 4),
        processing_class=transformers.AutoTokenizer.from_pretrained(base),
        peft_config=peft.LoraConfig(r=8, target_modules=["q_proj", "v_proj"]),
        callbacks=[callback],
    )
    trainer.train()
    assert callback.reports[0].size < 3_000_000
    export = skillpack.export_adapter("sums", room / "adapter", base, store=room / "store", strict=True)
    back = peft.PeftModel.from_pretrained(opened(base), export.folder)
    for name, weight in trainer.model.state_dict().items():
        if "lora_" in name:
            assert torch.equal(weight, back.state_dict()[name]), name


def test_a_full_training_ends_with_a_skill(room):
    base = smollm2()
    callback = SkillPackCallback(base, "sums", exact=True, store=room / "store")
    model = opened(base)
    ids = transformers.AutoTokenizer.from_pretrained(base)(TEXT).input_ids
    trainer = transformers.Trainer(
        model,
        transformers.TrainingArguments(
            str(room / "out"), max_steps=2, learning_rate=1e-4, report_to=[], use_cpu=True, save_strategy="no"
        ),
        train_dataset=[{"input_ids": ids, "labels": ids}] * 4,
        callbacks=[callback],
    )
    trainer.train()
    skillpack.install("sums", base, output=room / "model", store=room / "store")
    installed = transformers.AutoModelForCausalLM.from_pretrained(room / "model", dtype="auto").state_dict()
    for name, weight in model.state_dict().items():
        assert torch.equal(installed[name], weight.to(torch.bfloat16)), name
