"""`model.generate(..., skills=[...])` writes for each prompt what its skills alone would write."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

import skillpack
from skillpack.errors import NotFoundError, UsageError

SKILLS = ["thin", None, "exact", ["thin=0.5", "exact"], "wide"]


@pytest.fixture
def hosted(llama):
    model = llama.load()
    return model, skillpack.host(model, mode="overlay", store=llama.store)


def padded(batch, lengths):
    """Prompts of several lengths, padded on the left."""
    ids = batch(len(lengths), max(lengths), seed=4)
    mask = torch.arange(max(lengths)) >= max(lengths) - torch.tensor(lengths)[:, None]
    return {"input_ids": torch.where(mask, ids, 257), "attention_mask": mask.long()}


def alone(host, model, inputs, row, skills, **options):
    each = int(options.get("num_return_sequences", 1))
    names = [] if skills is None else [skills] if isinstance(skills, str) else skills
    with host.using(*names):
        written = model.generate(**{name: value[row : row + 1] for name, value in inputs.items()}, **options)
    assert len(written) == each
    return written


@pytest.mark.parametrize(
    "options",
    [{}, {"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 2}, {"use_cache": False}],
    ids=["greedy", "beams", "several", "no cache"],
)
@pytest.mark.parametrize("lengths", [[7, 7, 7, 7, 7], [3, 20, 9, 1, 12]], ids=["even", "padded"])
def test_each_prompt_is_answered_with_its_own_skills(hosted, batch, options, lengths):
    model, host = hosted
    inputs, options = (
        padded(batch, lengths),
        {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, **options},
    )
    found = model.generate(**inputs, **options, skills=SKILLS)
    each = len(found) // len(SKILLS)
    for row, skills in enumerate(SKILLS):
        expected = alone(host, model, inputs, row, skills, **options)
        assert torch.equal(found[row * each : (row + 1) * each], expected), skills
    answers = {tuple(row) for row in model.generate(**padded(batch, [7] * 5), **options)[:, 7:].tolist()}
    assert len(answers) > 1


def test_sampled_answers_are_of_their_skills(hosted, batch):
    model, host = hosted
    ids = batch(2, 6)
    options = {"do_sample": True, "num_return_sequences": 4, "max_new_tokens": 8, "top_k": 1, "eos_token_id": None}
    found = model.generate(ids, **options, skills=["thin", "exact"])
    for row, name in enumerate(["thin", "exact"]):
        expected = alone(host, model, {"input_ids": ids}, row, name, **options)
        assert torch.equal(found[4 * row : 4 * row + 4], expected)


@pytest.mark.parametrize("skills", [["thin"], ["thin", None, None], "thin", []])
def test_a_wrong_number_of_skills_is_refused(hosted, batch, skills):
    with pytest.raises(UsageError, match="for a batch of 2"):
        hosted[0].generate(batch(2, 5), skills=skills, max_new_tokens=2)


def test_unknown_names_are_refused_before_the_first_token(hosted, batch, monkeypatch):
    model, host = hosted
    monkeypatch.setattr(type(model), "forward", lambda *_, **__: pytest.fail("the model was run"))
    with pytest.raises(NotFoundError, match="nothing"):
        model.generate(batch(2, 5), skills=["thin", "nothing"], max_new_tokens=2)
    assert host.installed == ()


def test_without_skills_what_is_grafted_applies(hosted, batch, llama):
    model, host = hosted
    ids = batch(2, 6)
    options = {"max_new_tokens": 8, "do_sample": False}
    host.graft("thin")
    assert torch.equal(model.generate(ids, **options), llama.merged(thin=1).generate(ids, **options))
    host.ungraft()
    assert torch.equal(model.generate(ids, **options), llama.load().generate(ids, **options))


def test_copies_generate_as_their_class_does(hosted, batch):
    model, _ = hosted
    ids = batch(1, 5)
    expected = model.generate(ids, max_new_tokens=4, do_sample=False)
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(copied.generate(ids, max_new_tokens=4, do_sample=False), expected)
        with pytest.raises(UsageError, match="has no host"):
            copied.generate(ids, skills=["thin"])


def test_a_merged_host_takes_the_argument_back(hosted, llama):
    model, _ = hosted
    assert "generate" in vars(model)
    skillpack.host(model, store=llama.store)
    assert "generate" not in vars(model)
