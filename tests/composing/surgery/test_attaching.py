"""Modules as attachments: they travel with the skill, and what others attached is not believed."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest
import torch
from safetensors.torch import save

import skillpack
from skillpack.composing.surgery.attaching import SURGERY_TYPE, Facts, attach_surgery
from skillpack.composing.surgery.module import Bias
from skillpack.errors import DataError, NotFoundError, NotTrustedError, StoreError, TrustWarning
from skillpack.skill import open_skill
from skillpack.summaries import open_existing

BIAS = Bias(torch.randn(2, 32), torch.randn(32, 2))
TIME = "2026-01-02T03:04:05Z"
NOTES = {"org.skillpack.surgery.task": "english", "org.opencontainers.image.created": "2027-01-01T00:00:00Z"}


@pytest.fixture
def repository(world):
    return open_existing(world.store)


@pytest.fixture
def own_home(tmp_path, monkeypatch):
    """Keys and a policy that nobody else has."""
    monkeypatch.setenv("SKILLPACK_HOME", str(tmp_path / "home"))


@pytest.fixture
def skill(repository):
    return repository.resolve("both").descriptor


@pytest.fixture
def facts(repository, skill):
    base = open_skill(repository, skill.digest, "both").manifest.base_fingerprint
    expert = repository.resolve("english").descriptor.digest
    return Facts("english", expert, base, "next token", "0" * 64, 10, 4, 1e-3, 64, 0, 0.5, 0.25)


def opened(store, task="english", **options):
    return skillpack.open_surgery("both", task, store=store, **options)


def test_what_is_read_is_what_was_attached(world, repository, skill, facts):
    attached = attach_surgery(repository, skill, BIAS, facts, TIME)
    found = opened(world.store)
    assert found.facts == facts == attached.facts
    assert found.attachment == attached.digest
    for one, other in zip(found.bias, BIAS.rounded(), strict=True):
        assert torch.equal(one, other)
    assert attach_surgery(repository, skill, BIAS, facts, TIME).digest == attached.digest
    assert skillpack.fsck(store=world.store).findings == []


def test_modules_travel_with_the_skill_which_stays_as_it_is(world, repository, skill, facts, tmp_path):
    attached = attach_surgery(repository, skill, BIAS, facts, TIME)
    skillpack.export("both", tmp_path / "both.tar", store=world.store)
    skillpack.import_skill(tmp_path / "both.tar", store=tmp_path / "archive")
    skillpack.push(str(tmp_path / "stick"), store=world.store)
    skillpack.clone(str(tmp_path / "stick"), tmp_path / "cloned")
    for store in (tmp_path / "archive", tmp_path / "cloned"):
        found = opened(store)
        assert (found.digest, found.attachment) == (skill.digest, attached.digest)
    # Of the expert only its digest goes along, and a collection keeps the module.
    assert [each.name for each in skillpack.list(store=tmp_path / "archive")] == ["both"]
    skillpack.gc(store=tmp_path / "archive", grace=timedelta(0))
    assert opened(tmp_path / "archive").attachment == attached.digest
    assert skillpack.fsck(store=tmp_path / "archive").findings == []


def test_the_newest_of_a_task_counts_wherever_it_was_made(world, repository, skill, facts):
    digests = {}
    for created in ("2026-03-01T00:00:00Z", "2026-05-01T00:00:00Z", "2026-04-01T00:00:00Z"):
        digests[created] = attach_surgery(repository, skill, BIAS, facts, created).digest
    assert opened(world.store).attachment == digests["2026-05-01T00:00:00Z"]


def test_a_task_without_a_module(world, repository, skill, facts):
    with pytest.raises(NotFoundError, match=r"no module for the task english$"):
        opened(world.store)
    attach_surgery(repository, skill, BIAS, facts, TIME)
    with pytest.raises(NotFoundError, match="it has some for english"):
        opened(world.store, "german")
    with pytest.raises(NotFoundError):
        skillpack.open_surgery("nothing", "english", store=world.store)


def content(facts, tensors=None, **changes):
    sound = {"down": BIAS.down.bfloat16(), "up": BIAS.up.bfloat16()}
    noted = json.dumps({**vars(facts), **changes})
    return save(sound if tensors is None else tensors(sound), {"surgery": noted})


HOSTILE = {
    "nothing": lambda facts: b"",
    "no tensors": lambda facts: b"no tensors at all",
    "one missing": lambda facts: content(facts, lambda sound: {"down": sound["down"]}),
    "one too many": lambda facts: content(facts, lambda sound: {**sound, "more": sound["up"].clone()}),
    "not finite": lambda facts: content(facts, lambda sound: {**sound, "up": sound["up"] / 0}),
    "fp32": lambda facts: content(facts, lambda sound: {**sound, "up": sound["up"].float()}),
    "other shapes": lambda facts: content(facts, lambda sound: {**sound, "up": sound["up"][:, :1].contiguous()}),
    "three axes": lambda facts: content(
        facts, lambda sound: {key: each[None].contiguous() for key, each in sound.items()}
    ),
    "empty": lambda facts: content(
        facts, lambda _: {"down": torch.zeros(0, 4).bfloat16(), "up": torch.zeros(4, 0).bfloat16()}
    ),
    "no facts": lambda facts: save({"down": BIAS.down.bfloat16(), "up": BIAS.up.bfloat16()}),
    "facts that are none": lambda facts: save(
        {"down": BIAS.down.bfloat16(), "up": BIAS.up.bfloat16()}, {"surgery": "[]"}
    ),
    "another fact": lambda facts: content(facts, more=1),
    "text for a number": lambda facts: content(facts, steps="ten"),
    "truth for a number": lambda facts: content(facts, steps=True),
    "no number": lambda facts: content(facts, before=float("nan")),
    "a strange task": lambda facts: content(facts, task="\x1b[2J"),
    "another task": lambda facts: content(facts, task="german"),
    "another base": lambda facts: content(facts, base="sha256:" + "1" * 64),
    "no digest": lambda facts: content(facts, expert="sha256:../.."),
    "another kind": lambda facts: content(facts, predicts="the future"),
    "large": lambda facts: b"\0" * ((32 << 20) + 1),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_cannot_be_used_is_refused_and_does_no_harm_to_others(world, repository, skill, facts, kind):
    files = [(HOSTILE[kind](facts), SURGERY_TYPE, "surgery.safetensors")]
    bad = repository.attach(skill, SURGERY_TYPE, files, NOTES)
    with pytest.raises(DataError, match="cannot be used"):
        opened(world.store)
    with pytest.raises((DataError, StoreError)):
        opened(world.store, attachment=bad.digest)
    sound = attach_surgery(repository, skill, BIAS, facts, TIME)
    assert opened(world.store).attachment == sound.digest


@pytest.mark.parametrize("notes", [{}, {**NOTES, "org.skillpack.surgery.task": "Not A Name"}])
def test_what_names_no_task_is_passed_over(world, repository, skill, facts, notes):
    repository.attach(skill, SURGERY_TYPE, [(content(facts), SURGERY_TYPE, "x")], notes)
    with pytest.raises(NotFoundError, match=r"no module for the task english$"):
        opened(world.store)


def test_attachments_of_another_skill_or_kind(world, repository, skill, facts):
    other = attach_surgery(repository, repository.resolve("german").descriptor, BIAS, facts, TIME)
    with pytest.raises(DataError, match="attached in another way"):
        opened(world.store, attachment=other.digest)
    twice = [(content(facts), SURGERY_TYPE, "a"), (content(facts), SURGERY_TYPE, "b")]
    for type_, files in ((SURGERY_TYPE, twice), ("a/card", twice[:1]), (SURGERY_TYPE, [])):
        digest = repository.attach(skill, type_, files, NOTES).digest
        with pytest.raises(DataError, match="attached in another way"):
            opened(world.store, attachment=digest)
    with pytest.raises(NotFoundError):
        opened(world.store, attachment="sha256:" + "0" * 64)
    with pytest.raises(DataError, match="not a digest"):
        opened(world.store, attachment="../../etc/passwd")


@pytest.mark.usefixtures("own_home")
def test_where_signatures_are_required_a_module_has_to_be_named(world, repository, skill, facts):
    attached = attach_surgery(repository, skill, BIAS, facts, TIME)
    skillpack.new_key("ada", password=None)
    skillpack.trust("ada", name="Ada")
    skillpack.sign("both", key="ada", store=world.store)
    skillpack.set_policy("require")
    with pytest.raises(NotTrustedError, match="not covered") as caught:
        opened(world.store)
    assert attached.digest in caught.value.hint
    assert opened(world.store, attachment=attached.digest).facts == facts
    skillpack.set_policy("warn")
    with pytest.warns(TrustWarning, match="not covered"):
        opened(world.store)
