"""Training with transformers and TRL that ends with a skill in the store."""

from __future__ import annotations

import logging

import datasets
import peft
import pytest
import torch
import transformers

import skillpack
from skillpack.checkpoint import open_checkpoint
from skillpack.errors import ReportedError, SkillPackError, UsageError, WrongBaseError
from skillpack.interop.callback import SkillPackCallback
from tests.live.models import bert, llama, mixtral, tokenizer


def opened(folder, dtype=torch.float32):
    model_class = getattr(transformers, transformers.AutoConfig.from_pretrained(folder).architectures[0])
    return model_class.from_pretrained(folder, dtype=dtype)


def run(model, room, *callbacks, steps=4, **settings):
    """A few steps on random tokens."""
    random = torch.Generator().manual_seed(0)
    rows = [{"input_ids": torch.randint(0, 250, (12,), generator=random)} for _ in range(8)]
    labels = 1 if "SequenceClassification" in type(model).__name__ else None
    data = [{**row, "labels": row["input_ids"] if labels is None else torch.tensor(labels)} for row in rows]
    options = {
        "max_steps": steps,
        "learning_rate": 1e-2,
        "per_device_train_batch_size": 2,
        "report_to": [],
        "disable_tqdm": True,
        "save_strategy": "no",
        "use_cpu": True,
        **settings,
    }
    trainer = transformers.Trainer(
        model,
        transformers.TrainingArguments(str(room / "out"), **options),
        train_dataset=data,
        processing_class=tokenizer(),
        callbacks=list(callbacks),
    )
    trainer.train()
    return trainer


def assert_installs_as(library, base, model, name="math"):
    """The installed model has the weights that were learned, in the base's dtypes."""
    folder = library.room / "installed"
    skillpack.install(name, base, output=folder, store=library.store)
    installed, wanted = opened(folder, "auto").state_dict(), model.state_dict()
    before = opened(base, "auto").state_dict()
    assert installed.keys() == wanted.keys()
    changed = 0
    for key, tensor in installed.items():
        assert torch.equal(tensor, wanted[key].to(tensor.dtype)), key
        changed += key in before and not torch.equal(tensor, before[key])
    assert changed
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_training_ends_with_a_skill(library, dtype):
    base = llama(library.room / "base")
    callback = SkillPackCallback(base, "math", exact=True, store=library.store, message="Sums")
    model = opened(base, dtype)
    run(model, library.room, callback)
    (report,) = callback.reports
    assert report.version == 1
    assert callback.problem is None
    assert skillpack.list(store=library.store)[0].message == "Sums: step 4"
    folder = assert_installs_as(library, base, model)
    assert {path.dtype for path in open_checkpoint(folder).tensors.values()} == {"BF16"}
    assert report.manifest.files == (), [file.path for file in report.manifest.files]


def test_every_two_steps_with_few_checkpoints_kept(library):
    base = llama(library.room / "base", dtype=torch.float32)
    callback = SkillPackCallback(base, "math", every=2, exact=True, store=library.store)
    model = opened(base)
    settings = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 1, "gradient_checkpointing": True}
    run(model, library.room, callback, steps=5, **settings)
    assert [report.version for report in callback.reports] == [1, 2, 3]
    messages = [skillpack.show(f"math@{number}", store=library.store).summary.message for number in (1, 2, 3)]
    assert messages == ["Trained: step 2", "Trained: step 4", "Trained: step 5"]
    assert len([path for path in (library.room / "out").iterdir() if path.name.startswith("checkpoint")]) == 1
    folder = assert_installs_as(library, base, model)
    # A trainer turns it off together with gradient checkpointing, for its own time.
    assert transformers.AutoConfig.from_pretrained(folder).use_cache


def test_the_last_step_is_packed_once(library, tiny):
    callback = SkillPackCallback(tiny, "math", every=2, store=library.store)
    run(opened(tiny), library.room, callback, steps=4)
    assert [report.version for report in callback.reports] == [1, 2]


def test_an_adapter(library):
    base = llama(library.room / "base")
    model = peft.get_peft_model(opened(base), peft.LoraConfig(r=2, target_modules=["q_proj"], modules_to_save=["norm"]))
    callback = SkillPackCallback(base, "math", exact=True, store=library.store)
    run(model, library.room, callback)
    codecs = {part.codec for entry in callback.reports[0].manifest.tensors for part in entry.parts}
    assert codecs == {"factors", "exact"}


def test_a_classifier_from_an_encoder(library):
    base = bert(library.room / "base", "BertModel")
    torch.manual_seed(1)
    config = transformers.AutoConfig.from_pretrained(base, num_labels=3)
    model = transformers.BertForSequenceClassification.from_pretrained(base, config=config)
    callback = SkillPackCallback(base, "reviews", exact=True, store=library.store)
    run(model, library.room, callback)
    folder = library.room / "installed"
    skillpack.install("reviews", base, output=folder, store=library.store)
    assert transformers.AutoConfig.from_pretrained(folder).architectures == ["BertForSequenceClassification"]
    installed = transformers.BertForSequenceClassification.from_pretrained(folder)
    for key, tensor in installed.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[key]), key


def test_experts_that_live_in_one_tensor(library):
    base = mixtral(library.room / "base", torch.float32)
    model = opened(base)
    run(model, library.room, SkillPackCallback(base, "math", exact=True, store=library.store), steps=2)
    assert_installs_as(library, base, model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_base_is_known_in_any_dtype_and_another_is_refused_at_once(library, dtype):
    base = llama(library.room / "base")
    other = llama(library.room / "other", seed=7)
    callback = SkillPackCallback(base, "math", store=library.store)
    state = transformers.TrainerState()
    callback.on_train_begin(None, state, None, model=opened(base, dtype))
    with pytest.raises(WrongBaseError, match="not loaded from") as refused:
        callback.on_train_begin(None, state, None, model=opened(other, dtype))
    assert "model.embed_tokens.weight" in refused.value.tensors
    steps = []

    class Count(transformers.TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            steps.append(state.global_step)

    with pytest.raises(WrongBaseError):
        run(opened(other), library.room, Count(), callback)
    assert steps == []
    model = opened(base, dtype)
    with torch.no_grad():
        model.model.norm.weight[3] += 0.25
    with pytest.raises(WrongBaseError, match=r"model\.norm\.weight"):
        callback.on_train_begin(None, state, None, model=model)
    state.global_step = 5
    callback.on_train_begin(None, state, None, model=model)


def test_quantised_weights_are_not_compared_and_that_is_said(library, caplog):
    """As an adapter on 4-bit weights has them: bytes of another shape; the rest must be the base's all the same."""
    base = llama(library.room / "base")
    model = peft.get_peft_model(opened(base), peft.LoraConfig(r=2, target_modules=["q_proj"]))
    weight = model.base_model.model.model.layers[0].mlp.up_proj
    weight.weight = torch.nn.Parameter(torch.zeros(768, 1, dtype=torch.uint8), requires_grad=False)
    callback = SkillPackCallback(base, "math", store=library.store)
    with caplog.at_level(logging.WARNING, "skillpack"):
        callback.on_train_begin(None, transformers.TrainerState(), None, model=model)
    assert "1 weights are quantised" in caplog.text
    with torch.no_grad():
        model.base_model.model.model.norm.weight += 1
    with pytest.raises(WrongBaseError):
        callback.on_train_begin(None, transformers.TrainerState(), None, model=model)


def test_a_failure_on_the_way_is_logged_and_one_at_the_end_loses_nothing(library, tiny, monkeypatch, caplog):
    callback = SkillPackCallback(tiny, "math", every=2, exact=True, store=library.store)
    tried = []

    def full(*_, **__):
        tried.append(1)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("skillpack.packing.pack", full)
    model = opened(tiny)
    with caplog.at_level(logging.ERROR, "skillpack"), pytest.raises(SkillPackError, match="not-packed") as failed:
        run(model, library.room, callback)
    assert len(tried) == 2
    assert [record.getMessage().partition(" could")[0] for record in caplog.records] == ["step 2", "step 4"]
    assert "skillpack pack" in failed.value.hint
    monkeypatch.undo()
    saved = library.room / "out" / "not-packed"
    assert torch.equal(opened(saved).lm_head.weight, model.lm_head.weight)
    skillpack.pack(tiny, saved, "math", exact=True, store=library.store)
    assert_installs_as(library, tiny, model)


def test_only_the_main_process_packs(library, tiny):
    callback = SkillPackCallback(tiny, "math", every=1, store=library.store)
    state = transformers.TrainerState(global_step=1, max_steps=3)
    state.is_world_process_zero = False
    callback.on_step_end(None, state, None, model=None)
    callback.on_train_end(None, state, None, model=None)
    assert callback.reports == []
    assert not library.store.exists()


def test_what_makes_no_sense_is_refused_before_training(library, tiny):
    with pytest.raises(UsageError, match="calibration"):
        SkillPackCallback(tiny, "math", calibration="self")
    with pytest.raises(UsageError, match="never"):
        SkillPackCallback(tiny, "math", every=0)
    with pytest.raises(ReportedError, match="name of a skill"):
        SkillPackCallback(tiny, "Not a name")


def test_trl(library):
    trl = pytest.importorskip("trl", reason="TRL is in the extra `test`")
    base = llama(library.room / "base", dtype=torch.float32)
    callback = SkillPackCallback(base, "math", exact=True, store=library.store)
    turns = [{"role": "user", "content": "2 + 2"}, {"role": "assistant", "content": "4"}]
    arguments = trl.SFTConfig(
        str(library.room / "out"), max_steps=3, report_to=[], use_cpu=True, bf16=False, save_strategy="no",
        learning_rate=1e-2, per_device_train_batch_size=2, disable_tqdm=True,
    )  # fmt: skip
    trainer = trl.SFTTrainer(
        opened(base),
        arguments,
        train_dataset=datasets.Dataset.from_list([{"messages": turns}] * 6),
        processing_class=tokenizer(),
        callbacks=[callback],
    )
    trainer.train()
    assert callback.reports[0].version == 1
    assert_installs_as(library, base, trainer.model)
