"""Merged mode: the live weights are those of the installed checkpoint, and the base comes back bit for bit."""

from __future__ import annotations

import itertools
import random
import threading
from types import SimpleNamespace

import pytest
import torch

import skillpack
from skillpack.errors import (
    ConflictError,
    ModifiedModelError,
    NotFoundError,
    UnsupportedModelError,
    UsageError,
    WrongBaseError,
)
from skillpack.grafting.planning import Step
from tests.grafting.conftest import NAMES
from tests.grafting.tools import bits, load, same
from tests.live import models


@pytest.fixture
def hosted(shelf):
    """Function: a live base and its host."""

    def hosted(dtype="auto", **options):
        model = load(shelf.base, dtype)
        return model, skillpack.host(model, store=shelf.store, **options)

    return hosted


STACKS = [["math"], ["code=0.5"], ["prose", "math=-0.7"], ["math", "code", "prose=0.3", "chat=1.5"]]


@pytest.mark.parametrize("skills", STACKS, ids=" ".join)
@pytest.mark.parametrize("base", ["copy", "folder"])
def test_live_weights_are_those_of_the_installed_checkpoint(hosted, shelf, skills, base):
    model, host = hosted(base=shelf.base if base == "folder" else base)
    before = bits(model)
    host.graft(*skills)
    assert same(bits(model), bits(load(shelf.installed(*skills))))
    assert not same(bits(model), before)
    host.verify()
    host.ungraft()
    assert same(bits(model), before)
    assert host.installed == ()
    host.verify()


def test_what_is_installed_is_told(hosted, shelf):
    _, host = hosted()
    host.graft("math", "code:0.5")
    digest = skillpack.show("math", store=shelf.store).summary.digest
    assert [(each.name, each.weight, each.label) for each in host.installed] == [
        ("code", 0.5, "code@1"),
        ("math", 1.0, "math@1"),
    ]
    assert host.installed[1].digest == digest
    assert host.resident == host.installed
    assert repr(host) == "<Host of LlamaForCausalLM, merged: code@1=0.5, math@1=1>"


@pytest.mark.parametrize("cache_bytes", [0, 60_000, 1 << 30])
def test_random_steps_leave_nothing_behind(hosted, cache_bytes):
    draw = random.Random(cache_bytes)
    model, host = hosted(cache_bytes=cache_bytes)
    before, seen = bits(model), {}
    for _ in range(60):
        on = {each.name for each in host.installed}
        if on and draw.random() < 0.4:
            host.ungraft(*draw.sample(sorted(on), draw.randint(1, len(on))))
        else:
            names = draw.sample(NAMES, draw.randint(1, 2))
            host.graft(*(f"{name}={draw.choice([1.0, 0.5, -1.25])}" for name in names))
        now = bits(model)
        assert same(now, seen.setdefault(host.installed, now))
        if not host.installed:
            assert same(now, before)
    host.verify()
    host.ungraft()
    assert same(bits(model), before)
    assert len(seen) > 10


def test_another_weight_or_version_replaces_in_one_step(shelf, hosted):
    model, host = hosted()
    host.graft("math")
    host.graft("math=0.25", "code")
    assert same(bits(model), bits(load(shelf.installed("code", "math=0.25"))))


def test_using_brings_back_what_was_there(shelf, hosted):
    model, host = hosted()
    host.graft("prose")
    before = bits(model)

    def use():
        with host.using("math", "code=0.5") as inner:
            assert inner is host
            assert same(bits(model), bits(load(shelf.installed("math", "code=0.5"))))
            with host.using():
                assert host.installed == ()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        use()
    assert same(bits(model), before)
    assert [each.name for each in host.installed] == ["prose"]


@pytest.mark.parametrize("mode", ["merged", "overlay"])
def test_auto_is_no_skill_unless_one_is_called_so(shelf, hosted, tmp_path, mode):
    _, host = hosted(mode=mode)
    for use in (host.graft, host.swap, host.load, lambda *names: host.using(*names).__enter__()):
        with pytest.raises(UsageError, match='no skill "auto"') as refused:
            use("math", "auto")
        for way in ("host.routing(prompts)", 'generate(skills="auto")', "host.using(*route.addresses)"):
            assert way in refused.value.hint
    assert host.installed == ()
    with pytest.raises(NotFoundError):
        host.graft("automatic")
    skillpack.export("math", tmp_path / "math.tar", store=shelf.store)
    skillpack.import_skill(tmp_path / "math.tar", "auto", store=tmp_path / "store")
    other = skillpack.host(load(shelf.base), mode=mode, store=tmp_path / "store")
    with other.using("auto"):
        assert [each.name for each in other.installed] == ["auto"]


def test_memory_and_identity_of_weights_stay(hosted):
    model, host = hosted()
    parameters = dict(model.named_parameters())
    pointers = {name: parameter.data_ptr() for name, parameter in parameters.items()}
    view = model.model.layers[0].mlp.up_proj.weight.data[:4]
    before = view.clone()
    for skills in (["math"], ["code", "chat"], []):
        with host.using(*skills):
            assert dict(model.named_parameters()) == parameters
            assert {name: parameter.data_ptr() for name, parameter in model.named_parameters()} == pointers
            assert model.lm_head.weight is model.model.embed_tokens.weight
            assert torch.equal(view, before) == (not skills)


def test_autograd_sees_that_weights_were_written(hosted):
    model, host = hosted(torch.float32)
    loss = model(torch.arange(8)[None]).logits.sum()
    host.graft("math")
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    model(torch.arange(8)[None]).logits.sum().backward()
    assert all(parameter.is_leaf and parameter.requires_grad for parameter in model.parameters())


def test_weights_made_in_inference_mode(shelf):
    with torch.inference_mode():
        model = load(shelf.base)
    for parameter in model.parameters():
        parameter.data = parameter.data
    host = skillpack.host(model, store=shelf.store)
    before = bits(model)
    host.graft("math")
    assert same(bits(model), bits(load(shelf.installed("math"))))
    host.ungraft()
    assert same(bits(model), before)


def test_fp32_gets_the_unrounded_sum(hosted, shelf):
    model, host = hosted(torch.float32)
    before = bits(model)
    host.graft("prose=0.5", "math")
    name = "model.layers.1.mlp.down_proj.weight"
    skills = {each: skillpack.show(each, store=shelf.store).skill for each in ("prose", "math")}
    base = skillpack.open_checkpoint(shelf.base).read(name)
    total = base.float32().copy()
    for each in sorted(skills.values(), key=lambda skill: skill.digest):
        entry = next(entry for entry in each.manifest.tensors if entry.name == name)
        decoded = each.decode(entry, base)
        delta = decoded.delta if decoded.value is None else decoded.value.float32() - base.float32()
        total += delta * (0.5 if each.name == "prose" else 1)
    assert torch.equal(model.get_parameter(name).detach(), torch.from_numpy(total))
    assert not torch.equal(torch.from_numpy(total).bfloat16().float(), torch.from_numpy(total))
    host.verify()
    host.ungraft()
    assert same(bits(model), before)


@pytest.fixture
def faint(shelf, tmp_path):
    """A base with weights that fp16 cannot hold, and a store with a skill of it."""
    model = load(shelf.base)
    for name, parameter in model.named_parameters():
        if "up_proj" in name:
            parameter.data *= 2**-16
    models.save(tmp_path / "base", model)
    models.moved(tmp_path / "base", tmp_path / "tuned", scale=0.1)
    skillpack.pack(tmp_path / "base", tmp_path / "tuned", "faint", store=tmp_path / "store")
    return SimpleNamespace(base=tmp_path / "base", store=tmp_path / "store")


def test_fp16_needs_the_checkpoint_where_it_lost_something(shelf, faint):
    model = load(faint.base, torch.float16)
    before = bits(model)
    with pytest.raises(WrongBaseError, match="was packed from another base: 2 of") as error:
        skillpack.host(model, store=faint.store).graft("faint")
    assert all("up_proj" in name for name in error.value.tensors)
    assert "base=" in error.value.hint
    host = skillpack.host(model, store=faint.store, base=faint.base)
    host.graft("faint=0.5")
    assert not same(bits(model), before)
    host.verify()
    host.ungraft()
    assert same(bits(model), before)


def test_fp16_proves_its_base_where_it_lost_nothing(hosted):
    model, host = hosted(torch.float16)
    before = bits(model)
    host.graft("math", "prose=0.5")
    host.verify()
    assert model.lm_head.weight.dtype == torch.float16
    host.ungraft()
    assert same(bits(model), before)


def test_a_wrong_base_is_refused_and_named(hosted):
    model, host = hosted()
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[3, 4] += 1
    before = bits(model)
    with pytest.raises(WrongBaseError) as error:
        host.graft("code")
    assert error.value.tensors == ("model.layers.0.mlp.up_proj.weight",)
    assert same(bits(model), before)
    assert host.installed == ()


def test_a_model_that_is_not_of_the_given_checkpoint(shelf):
    model = load(shelf.tuned["code"])
    host = skillpack.host(model, store=shelf.store, base=shelf.base)
    with pytest.raises(WrongBaseError, match="mlp"):
        host.graft("code")


def test_a_change_by_somebody_else_is_noticed(hosted):
    model, host = hosted()
    host.graft("code")
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight[0, 0] += 1
    before = bits(model)
    for action in (host.ungraft, host.verify, lambda: host.graft("math")):
        with pytest.raises(ModifiedModelError, match=r"layers\.0\.mlp\.up_proj") as error:
            action()
        assert error.value.tensors == ("model.layers.0.mlp.up_proj.weight",)
    assert same(bits(model), before)


def test_a_change_through_data_is_found_by_verify(hosted):
    model, host = hosted()
    host.graft("code")
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] += 1
    with pytest.raises(ModifiedModelError, match=r"1 of 6 tensors .*layers\.1\.mlp\.up_proj"):
        host.verify()


def test_writing_the_same_values_or_moving_them_is_no_change(hosted):
    model, host = hosted()
    before = bits(model)
    host.graft("code")
    with torch.no_grad():
        weight = model.model.layers[0].mlp.up_proj.weight
        weight.copy_(weight.clone())
        weight.data = weight.data.clone()
    host.ungraft()
    assert same(bits(model), before)


def test_casting_needs_a_new_host(hosted, shelf):
    model, host = hosted()
    host.graft("prose")
    model.float()
    with pytest.raises(ModifiedModelError) as error:
        host.ungraft()
    assert "make a new host" in error.value.hint
    model, host = hosted()
    host.graft("prose")
    host.ungraft()
    model.float()
    with pytest.raises(ModifiedModelError):
        host.graft("prose")
    skillpack.host(model, store=shelf.store).graft("prose")


def test_unknown_names_and_weights(hosted):
    _, host = hosted()
    host.graft("code")
    for action, error, message in [
        (lambda: host.graft("nothing"), NotFoundError, "nothing"),
        (lambda: host.ungraft("math"), NotFoundError, "math is not on the model"),
        (lambda: host.graft("math=0"), UsageError, "weight 0"),
        (lambda: host.graft("math=x"), UsageError, "no weight"),
        (lambda: host.graft("math", "math=2"), UsageError, "same name"),
        (lambda: host.rows([None]), UsageError, "overlay"),
        (lambda: host.unload("code"), UsageError, "overlay"),
        (lambda: skillpack.host(host.model, mode="overlay"), UsageError, "merged mode"),
        (lambda: skillpack.host(torch.nn.Linear(2, 2), mode="other"), UsageError, "no mode"),
        (lambda: skillpack.host(torch.nn.Linear(2, 2), cache_bytes=-1), UsageError, "cache_bytes"),
    ]:
        with pytest.raises(error, match=message):
            action()
    assert [each.name for each in host.installed] == ["code"]


def test_a_model_keeps_its_host_while_skills_are_on_it(hosted, shelf):
    model, host = hosted()
    host.graft("code")
    assert skillpack.host(model) is host
    host.ungraft()
    assert skillpack.host(model, store=shelf.store) is not host


def test_a_copy_of_the_model_has_no_host(hosted, tmp_path):
    import copy

    model, host = hosted()
    host.graft("code")
    twin = copy.deepcopy(model)
    torch.save(model, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    assert skillpack.host(twin) is not host
    assert skillpack.host(loaded).installed == ()


def test_loading_ahead_writes_nothing(hosted):
    model, host = hosted()
    before = bits(model)
    host.load("math", "prose=0.5")
    assert same(bits(model), before)
    assert host.installed == ()


def test_orders_do_not_matter(hosted):
    results = []
    for order in itertools.permutations(["math", "code", "prose=0.5"]):
        model, host = hosted()
        for skill in order:
            host.graft(skill)
        results.append(bits(model))
    assert all(same(result, results[0]) for result in results)


def test_a_tied_weight_cannot_be_untied(shelf, tmp_path):
    from safetensors.torch import load_file, save_file

    weights = load_file(shelf.base / "model.safetensors")
    tuned = tmp_path / "tuned"
    skillpack.install("chat", shelf.base, output=tuned, store=shelf.store)
    weights["lm_head.weight"] = weights["model.embed_tokens.weight"] * 1.5
    save_file(weights, tuned / "model.safetensors", {"format": "pt"})
    skillpack.pack(shelf.base, tuned, "untied", store=tmp_path / "store")
    host = skillpack.host(load(shelf.base), store=tmp_path / "store")
    with pytest.raises(ConflictError, match=r"unties lm_head.weight from model.embed_tokens.weight"):
        host.graft("untied")


def test_both_names_of_a_tied_weight_may_change_alike(shelf, tmp_path):
    from safetensors.torch import load_file, save_file

    folders = {}
    for name, source in {"base": shelf.base, "tuned": shelf.tuned["math"]}.items():
        folders[name] = (
            skillpack.install("chat", shelf.base, output=tmp_path / name, store=shelf.store) and tmp_path / name
        )
        weights = load_file(source / "model.safetensors")
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"].clone()
        save_file(weights, folders[name] / "model.safetensors", {"format": "pt"})
    skillpack.pack(folders["base"], folders["tuned"], "both", exact=True, store=tmp_path / "store")
    model = load(shelf.base)
    host = skillpack.host(model, store=tmp_path / "store")
    before = bits(model)
    host.graft("both")
    assert same(bits(model), bits(load(shelf.tuned["math"])))
    host.ungraft()
    assert same(bits(model), before)


def test_threads_take_turns(hosted, shelf):
    model, host = hosted(cache_bytes=100_000)
    before, failures = bits(model), []

    def work(seed):
        draw = random.Random(seed)
        try:
            for _ in range(12):
                host.swap(*draw.sample(NAMES, draw.randint(0, 2)))
        except Exception as error:  # noqa: BLE001 - told below, with the thread's others
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    host.verify()
    names = [each.name for each in host.installed]
    assert same(bits(model), bits(load(shelf.installed(*names) if names else shelf.base)))
    host.ungraft()
    assert same(bits(model), before)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator to pin memory for")
def test_pinned_memory_needs_an_accelerator(hosted):
    with pytest.raises(UnsupportedModelError, match="no accelerator") as error:
        hosted(base="pinned")
    assert "copy" in error.value.hint


def test_the_base_is_copied_where_skills_touch_it_and_nowhere_else(hosted):
    model, host = hosted()
    kept = host._base._originals._kept
    assert kept == {}
    host.graft("code")
    names = [name for name, _ in model.named_parameters() if "mlp" in name]
    assert sum(copy.nbytes for copy in kept.values()) == sum(model.get_parameter(name).nbytes for name in names)
    host.swap("chat")
    assert len(kept) == len(names) + 1


def test_the_cache_stays_within_its_limit(hosted):
    _, host = hosted(cache_bytes=60_000)
    cache = host._engine._cache
    for skills in (["math"], ["code"], ["prose"], ["math", "prose"]):
        host.swap(*skills)
        assert 20_000 < cache.size <= 60_000


def test_swapping_back_decodes_nothing(hosted, monkeypatch):
    _, host = hosted()
    host.swap("math")
    host.swap("code")
    monkeypatch.setattr(Step, "compute", lambda *_: pytest.fail("computed again"))
    host.swap("math")
    host.ungraft()
    host.swap("code")


def test_a_version_that_follows_replaces_the_one_before(shelf, tmp_path):
    store = tmp_path / "store"
    for name in ("math", "prose"):
        skillpack.pack(shelf.base, shelf.tuned[name], "skill", exact=True, store=store)
    model = load(shelf.base)
    host = skillpack.host(model, store=store)
    host.graft("skill@1")
    assert same(bits(model), bits(load(shelf.tuned["math"])))
    host.graft("skill")
    assert [each.label for each in host.installed] == ["skill@2"]
    assert same(bits(model), bits(load(shelf.tuned["prose"])))
