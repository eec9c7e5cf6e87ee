"""Routers on a tiny model: choices, examples as attachments, and `auto` in generate."""

from __future__ import annotations

import shutil
from importlib.metadata import EntryPoint
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM

import skillpack
from skillpack.errors import (
    DataError,
    NotFoundError,
    ReportedError,
    UnsupportedModelError,
    UsageError,
    WrongBaseError,
)
from skillpack.routing import opening
from skillpack.routing.applying import HostSkills
from skillpack.routing.examples import EXAMPLES_TYPE, find_examples
from skillpack.routing.features import Base
from skillpack.routing.protocol import Route
from skillpack.skill import open_skill
from skillpack.summaries import open_existing
from tests.live import models
from tests.routing.conftest import CODE, MATH, MIXED


def router_of(world, model, tokenizer, skills=None, **options):
    return skillpack.open_router(model, tokenizer, skills, store=world.store, **options)


def names(routes):
    return [[choice.name for choice in route.choices] for route in routes]


@pytest.mark.parametrize("method", ["prototype", "linear", "self-refined"])
def test_prompts_go_to_the_skill_whose_examples_are_like_them(world, model, tokenizer, method):
    router = router_of(world, model, tokenizer, method=method)
    assert router.skills == ("code", "math")
    assert list(router.left_out) == ["plain"]
    assert "add-examples plain" not in router.left_out["plain"]
    found = router.route([*MATH[16:], *CODE[16:], *MIXED])
    assert names(found[:8]) == [["math"]] * 8
    assert names(found[8:16]) == [["code"]] * 8
    assert names(found[16:]) == [[]] * len(MIXED)
    assert all(len(route.scores) == 2 for route in found)
    assert all(route.scores[0].score >= route.scores[1].score for route in found)


@pytest.mark.parametrize("method", ["prototype", "linear", "arrow", "likelihood"])
def test_another_skill_changes_nothing_about_the_others(world, model, tokenizer, method):
    router = router_of(world, model, tokenizer, ["math"], method=method)
    prompts = [MATH[20], CODE[20], *MIXED]
    before = [route.scores[0].score for route in router.route(prompts)]
    router.add("code")
    after = [{each.name: each.score for each in route.scores} for route in router.route(prompts)]
    assert [scores["math"] for scores in after] == pytest.approx(before, rel=1e-4, abs=1e-4)
    router.remove("code")
    assert [route.scores[0].score for route in router.route(prompts)] == pytest.approx(before, rel=1e-4, abs=1e-4)
    assert router.skills == ("math",)
    with pytest.raises(NotFoundError, match="code"):
        router.remove("code")


def test_likelihood_is_the_gain_of_the_installed_skill(world, model, tokenizer):
    router = router_of(world, model, tokenizer, ["math", "code"], method="likelihood")
    installed = world.folder / "installed"
    skillpack.install("code", world.base, output=installed, store=world.store)
    tuned = AutoModelForCausalLM.from_pretrained(installed, dtype="float32").eval()
    tokens = [router.base.read(text) for text in (MATH[0], CODE[3], "x")]
    digest = router.digests["code"]
    found = router._method._gains(tokens, [digest])[:, 0]
    for text, gain in zip(tokens, found.tolist(), strict=True):
        start, ids = router.base.own(text), torch.tensor([text])
        with torch.inference_mode():
            known = [each(ids).logits[0, start - 1 : -1].log_softmax(-1) for each in (tuned, model)]
        of = [each.gather(1, ids[0, start:, None]).mean() for each in known]
        assert gain == pytest.approx(float(of[0] - of[1]), abs=2e-3)


def test_arrow_projects_the_inputs_of_layers_on_directions(world, model, tokenizer):
    router = router_of(world, model, tokenizer, ["code"], method="arrow")
    method, base = router._method, router.base
    (digest,) = router.digests.values()
    name = "model.layers.1.mlp.up_proj"
    assert name in method._directions[digest]
    delta = skill_delta(world, "code", name)
    direction = method._directions[digest][name]
    assert float((delta @ direction).norm()) >= 0.98 * float(torch.linalg.matrix_norm(delta, 2))
    tokens, seen = base.read(CODE[0]), []
    handle = model.get_submodule(name).register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0][0]))
    with torch.inference_mode():
        model(torch.tensor([tokens]))
    handle.remove()
    states = torch.nn.functional.normalize(seen[0], dim=1)[base.own(tokens) :]
    place = list(method._directions[digest]).index(name)
    found = method._strengths([base.read(MATH[0]), tokens], [digest])[0][1, place]
    assert float(found) == pytest.approx(float((states @ direction).abs().mean()), rel=1e-4)


def skill_delta(world, name, module):
    import transformers

    one = transformers.AutoModelForCausalLM.from_pretrained(world.base, dtype="float32")
    other = transformers.AutoModelForCausalLM.from_pretrained(world.folder / name, dtype="float32")
    return (other.get_submodule(module).weight - one.get_submodule(module).weight).detach()


def test_top_k_and_thresholds(world, model, tokenizer):
    router = router_of(world, model, tokenizer, top_k=2, threshold=-1e6)
    (route,) = router.route([MATH[20]])
    assert [choice.name for choice in route.choices] == ["math", "code"]
    assert route.addresses == [f"{choice.name}@{choice.digest}=0.5" for choice in route.choices]
    assert names(router_of(world, model, tokenizer, threshold=1e6).route([MATH[20]])) == [[]]
    for options in ({"top_k": 0}, {"threshold": float("nan")}, {"threshold": "high"}, {"method": "guess"}):
        with pytest.raises(UsageError):
            router_of(world, model, tokenizer, **options)
    with pytest.raises(UsageError, match="list"):
        router.route("What is 2 plus 2?")
    assert router.route([]) == []


def test_skills_that_cannot_be_chosen_are_refused(world, model, tokenizer):
    with pytest.raises(DataError, match="plain has no examples"):
        router_of(world, model, tokenizer, ["plain"])
    with pytest.raises(UsageError, match="weight"):
        router_of(world, model, tokenizer, ["math=0.5"])
    with pytest.raises(NotFoundError):
        router_of(world, model, tokenizer, ["nothing"])


@pytest.fixture(scope="module")
def odd(world, tmp_path_factory):
    """The library of `world` with a second name of math, and alien, which is of another base."""
    folder = tmp_path_factory.mktemp("odd")
    shutil.copytree(world.store, folder / "store")
    skillpack.export("math", folder / "math.tar", store=world.store)
    skillpack.import_skill(folder / "math.tar", "twin-of-math", store=folder / "store")
    other = models.llama(folder / "other", seed=9, num_hidden_layers=4)
    tuned = models.moved(other, folder / "alien", scale=0.2, seed=5, names="proj")
    skillpack.pack(other, tuned, "alien", store=folder / "store")
    return SimpleNamespace(base=world.base, store=folder / "store")


@pytest.mark.parametrize("method", ["prototype", "linear", "self-refined", "arrow", "likelihood"])
def test_odd_skills_of_a_library_are_left_out_with_the_reason(odd, model, tokenizer, method):
    router = router_of(odd, model, tokenizer, method=method)
    without = {"arrow", "likelihood"}
    assert router.skills == (("code", "math", "plain") if method in without else ("code", "math"))
    assert router.left_out["twin-of-math"] == "twin-of-math is the same skill as math"
    reason = "Skill alien was packed from another base" if method in without else "The skill alien has no examples"
    assert router.left_out["alien"].startswith(reason)
    assert ("plain" in router.left_out) == (method not in without)
    alone = router_of(odd, model, tokenizer, router.skills, method=method)
    assert router.route([MATH[20], MIXED[0]]) == alone.route([MATH[20], MIXED[0]])
    # Who names them is told.
    with pytest.raises(WrongBaseError if method in without else DataError, match="alien"):
        router_of(odd, model, tokenizer, ["math", "alien"], method=method)
    with pytest.raises(UsageError, match="twin-of-math is the same skill as math"):
        router_of(odd, model, tokenizer, ["math", "twin-of-math"], method=method)


def test_a_damaged_skill_is_left_out(world, model, tokenizer, tmp_path):
    shutil.copytree(world.store, tmp_path / "store")
    repository = open_existing(tmp_path / "store")
    manifest = repository.skill_manifest(repository.resolve("math").descriptor.digest)
    layer = repository.blobs.path(manifest.layers[-1].digest)
    layer.chmod(0o644)
    layer.write_bytes(b"x" * layer.stat().st_size)
    router = skillpack.open_router(model, tokenizer, method="arrow", store=tmp_path / "store")
    assert router.skills == ("code", "plain")
    assert list(router.left_out) == ["math"]
    with pytest.raises(ReportedError):
        skillpack.open_router(model, tokenizer, ["math"], method="arrow", store=tmp_path / "store")


def test_where_no_skill_can_be_used_it_says_why(odd, tokenizer, tmp_path):
    folder = models.llama(tmp_path / "base", seed=4, num_hidden_layers=4)
    strange = AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    with pytest.raises(WrongBaseError, match="alien"):
        router_of(odd, strange, tokenizer, method="arrow")
    with pytest.raises(DataError, match="no examples"):
        router_of(odd, strange, tokenizer)


@pytest.mark.parametrize("method", ["arrow", "likelihood"])
def test_examples_are_not_in_the_way_of_methods_that_need_none(world, model, tokenizer, tmp_path, method):
    shutil.copytree(world.store, tmp_path / "store")
    repository = open_existing(tmp_path / "store")
    found = repository.resolve("plain").descriptor
    repository.attach(found, EXAMPLES_TYPE, [(b"no tensors", EXAMPLES_TYPE, "examples.safetensors")])
    router = skillpack.open_router(model, tokenizer, method=method, store=tmp_path / "store")
    assert router.skills == ("code", "math", "plain")
    assert router.left_out == {}
    router = skillpack.open_router(model, tokenizer, store=tmp_path / "store")
    assert "cannot be used" in router.left_out["plain"]


def test_encoders_have_no_likelihoods(world, tmp_path):
    from transformers import AutoModel, AutoTokenizer

    folder = models.bert(tmp_path / "bert", "BertModel")
    with pytest.raises(UnsupportedModelError, match="likelihoods"):
        router_of(
            world,
            AutoModel.from_pretrained(folder),
            AutoTokenizer.from_pretrained(folder),
            ["math"],
            method="likelihood",
        )


def test_a_package_can_offer_a_method(world, model, tokenizer, monkeypatch):
    class Always:
        needs_examples = False

        def __init__(self, base):
            self.base = base

        def add(self, skill, examples):
            return 0.0

        def remove(self, digest):
            pass

        def scores(self, prompts, digests):
            return torch.ones(len(prompts), len(digests))

    point = SimpleNamespace(name="always", load=lambda: Always)
    monkeypatch.setattr(opening, "entry_points", lambda group: [point] if group == "skillpack.routers" else [])
    found = router_of(world, model, tokenizer, ["plain"], method="always").route(["anything"])
    assert names(found) == [["plain"]]
    assert EntryPoint  # what importlib gives has the same two attributes


class TestExamples:
    def test_they_leave_the_skill_as_it_is_and_travel_with_it(self, world, model, tokenizer, tmp_path):
        before = {each.name: each.digest for each in skillpack.list(store=world.store)}
        skillpack.export("math", tmp_path / "math.tar", store=world.store)
        skillpack.import_skill(tmp_path / "math.tar", store=tmp_path / "archive")
        skillpack.push(str(tmp_path / "stick"), store=world.store)
        skillpack.clone(str(tmp_path / "stick"), tmp_path / "cloned")
        for store in (tmp_path / "archive", tmp_path / "cloned"):
            router = skillpack.open_router(model, tokenizer, ["math"], store=store)
            assert router.digests == {"math": before["math"]}
            assert names(router.route([MATH[20], MIXED[0]])) == [["math"], []]

    def test_those_of_several_people_add_up(self, world, model, tokenizer, tmp_path):
        skillpack.export("math", tmp_path / "math.tar", store=world.store)
        store = tmp_path / "store"
        skillpack.import_skill(tmp_path / "math.tar", store=store)
        report = skillpack.add_examples("math", MATH[16:22], model, tokenizer=tokenizer, refined=False, store=store)
        assert (report.added, report.total) == (6, 22)
        base = Base(model, tokenizer, HostSkills(model, store, "main"))
        found = find_examples(open_existing(store), report.digest, base)
        assert len(found) == 22
        assert len(found.refined) == 16  # the new ones are without
        again = skillpack.add_examples("math", MATH[16:22], model, tokenizer=tokenizer, refined=False, store=store)
        assert again == report
        # Of eight that were there already and two new ones only the new ones count.
        more = skillpack.add_examples("math", MATH[14:24], model, tokenizer=tokenizer, refined=False, store=store)
        assert (more.added, more.total) == (10, 24)
        # Others count where what the skill makes of them is known too.
        both = skillpack.add_examples("math", MATH[18:24], model, tokenizer=tokenizer, store=store)
        found = find_examples(open_existing(store), report.digest, base)
        assert (both.total, len(found), len(found.refined)) == (24, 24, 22)
        assert skillpack.fsck(store=store).findings == []

    def test_another_version_that_is_on_the_model_stays_there(self, world, model, tokenizer, tmp_path):
        store = tmp_path / "store"
        skillpack.export("math", tmp_path / "math.tar", store=world.store)
        skillpack.import_skill(tmp_path / "math.tar", store=store)
        tuned = models.moved(world.base, tmp_path / "tuned", scale=0.2, seed=9, names="proj")
        newer = skillpack.pack(world.base, tuned, "math", exact=True, store=store)
        host = skillpack.host(model, mode="overlay", store=store)
        host.graft("math@1")
        before = host.resident
        skillpack.add_examples("math@2", MATH[:8], model, tokenizer=tokenizer, store=store)
        assert host.resident == before
        host.load("math@2")
        host.unload(f"math@{newer.digest}")
        assert host.resident == before

    def test_those_of_another_base_or_layer_are_refused(self, world, model, tokenizer, tmp_path):
        other = models.llama(tmp_path / "other", seed=9, num_hidden_layers=4)
        with pytest.raises(WrongBaseError):
            skillpack.add_examples("math", MATH[:5], other, store=world.store)
        repository = open_existing(world.store)
        digest = repository.resolve("math").descriptor.digest
        strange = AutoModelForCausalLM.from_pretrained(other, dtype="float32").eval()
        for base in (
            Base(strange, tokenizer, HostSkills(strange, None, "main")),
            Base(model, tokenizer, HostSkills(model, None, "main"), layer=2),
        ):
            with pytest.raises(DataError, match="another base"):
                find_examples(repository, digest, base)

    @pytest.mark.parametrize(
        "content",
        [b"", b"no tensors", "missing", "infinite", "wide", "int"],
    )
    def test_damaged_ones_are_refused_and_do_no_harm_to_others(self, world, model, tokenizer, tmp_path, content):
        from safetensors.torch import save

        half = {"prompts": torch.zeros(4, 64).half(), "probe": torch.zeros(64).half(), "layer": torch.tensor(3)}
        made = {
            "missing": {"prompts": half["prompts"]},
            "infinite": {**half, "prompts": half["prompts"] / 0},
            "wide": {**half, "prompts": torch.zeros(4, 65).half()},
            "int": {**half, "probe": torch.zeros(64).int()},
        }
        data = content if isinstance(content, bytes) else save(made[content])
        skillpack.export("plain", tmp_path / "plain.tar", store=world.store)
        store = tmp_path / "store"
        skillpack.import_skill(tmp_path / "plain.tar", store=store)
        repository = open_existing(store)
        found = repository.resolve("plain").descriptor
        repository.attach(found, EXAMPLES_TYPE, [(data, EXAMPLES_TYPE, "examples.safetensors")])
        base = Base(model, tokenizer, HostSkills(model, store, "main"))
        with pytest.raises(DataError, match="cannot be used"):
            find_examples(repository, found.digest, base)
        skillpack.add_examples("plain", MIXED, model, tokenizer=tokenizer, refined=False, store=store)
        assert len(find_examples(repository, found.digest, base)) == len(MIXED)

    def test_too_few_or_too_many_are_refused(self, world, model, tokenizer):
        for count in (0, 3, 513):
            with pytest.raises(DataError, match=f"{count} examples"):
                skillpack.add_examples("math", ["x"] * count, world.base, store=world.store)
        with pytest.raises(UsageError, match="tokenizer"):
            skillpack.add_examples("math", MATH, model, store=world.store)

    def test_pack_attaches_them(self, world, model, tokenizer, tmp_path):
        file = tmp_path / "prompts.txt"
        file.write_text("\n\n".join(MATH[:8]))
        tuned = world.folder / "math"
        skillpack.pack(world.base, tuned, "new", exact=True, examples=file, store=tmp_path / "store")
        router = skillpack.open_router(model, tokenizer, store=tmp_path / "store")
        assert router.skills == ("new",)


class TestAuto:
    def test_generate_chooses_row_by_row(self, world, model, tokenizer):
        host = skillpack.host(model, mode="overlay", store=world.store)
        host.router = router_of(world, model, tokenizer)
        prompts = [host.router.base.read(text) for text in (MATH[20], CODE[20], MIXED[0])]
        longest = max(map(len, prompts))
        inputs = {
            "input_ids": torch.tensor([[257] * (longest - len(each)) + each for each in prompts]),
            "attention_mask": torch.tensor([[0] * (longest - len(each)) + [1] * len(each) for each in prompts]),
        }
        options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 257}
        found = model.generate(**inputs, **options, skills="auto")
        assert [[each.name for each in route.choices] for route in host.routed] == [["math"], ["code"], []]
        assert torch.equal(found, model.generate(**inputs, **options, skills=["math", "code", None]))
        mixed = model.generate(**inputs, **options, skills=["auto", "math", None])
        assert torch.equal(mixed, model.generate(**inputs, **options, skills=["math", "math", None]))
        assert len(host.routed) == 1

    def test_a_forward_pass_can_be_routed_whatever_is_grafted(self, world, model, tokenizer):
        host = skillpack.host(model, mode="overlay", store=world.store)
        host.router = router_of(world, model, tokenizer)
        alone = host.router.route([MATH[20], MIXED[0]])
        host.graft("code")
        ids = torch.tensor([host.router.base.read(MATH[20])])
        with torch.inference_mode(), host.routing([MATH[20]]) as routes:
            found = model(ids).logits
        assert [choice.name for choice in routes[0].choices] == ["math"]
        assert routes[0].scores[0].score == pytest.approx(alone[0].scores[0].score, abs=1e-4)
        with torch.inference_mode(), host.using("math"):
            torch.testing.assert_close(found, model(ids).logits, rtol=1e-4, atol=1e-4)
        assert [each.name for each in host.installed] == ["code"]

    @pytest.mark.parametrize("mode", ["merged", "overlay"])
    @pytest.mark.parametrize("method", ["prototype", "linear", "self-refined", "arrow", "likelihood"])
    def test_a_route_can_be_used_in_both_modes(self, world, model, tokenizer, mode, method):
        host = skillpack.host(model, mode=mode, store=world.store)
        before = {name: values.clone() for name, values in model.state_dict().items()}
        router = router_of(world, model, tokenizer, ["math", "code"], method=method, top_k=2, threshold=-1e6)
        (both,) = router.route([MATH[20]])
        ids = torch.tensor([router.base.read(MATH[20])])
        for route, expected in (
            (both, ["math=0.5", "code=0.5"]),
            (Route(both.choices[:1]), [both.choices[0].name]),
            (Route(()), []),
        ):
            with torch.inference_mode(), host.using(*route.addresses):
                assert sorted(each.name for each in host.installed) == sorted(each.name for each in route.choices)
                found = model(ids).logits
            with torch.inference_mode(), host.using(*expected):
                assert torch.equal(found, model(ids).logits)
        assert host.installed == ()
        assert all(torch.equal(values, before[name]) for name, values in model.state_dict().items())
        assert router.route([MATH[20]])[0].choices[0].score == pytest.approx(both.choices[0].score, abs=1e-3)

    def test_without_a_router_or_overlay_it_is_refused(self, world, model, tokenizer):
        host = skillpack.host(model, mode="overlay", store=world.store)
        with pytest.raises(UsageError, match="no router"):
            model.generate(torch.tensor([[1, 2]]), skills="auto")
        host.router = router_of(world, model, tokenizer)
        with pytest.raises(UsageError, match="tokens"):
            model.generate(inputs_embeds=torch.zeros(1, 2, 32), skills="auto")

    @pytest.mark.parametrize("method", ["prototype", "self-refined", "arrow", "likelihood"])
    def test_skills_written_into_the_weights_are_in_the_way(self, world, model, tokenizer, method):
        host = skillpack.host(model, store=world.store)
        router = router_of(world, model, tokenizer, ["math", "code"], method=method)
        before = names(router.route([MATH[20]]))
        host.graft("math")
        with pytest.raises(UsageError, match="written into"):
            router.route([MATH[0]])
        host.ungraft()
        assert names(router.route([MATH[20]])) == before


def test_route_opens_the_base_itself(world):
    routes = skillpack.route(MATH[20], world.base, store=world.store)
    assert routes.left_out == {"plain": "The skill plain has no examples of what it is for"}
    (found,) = routes
    assert [choice.name for choice in found.choices] == ["math"]
    assert open_skill(open_existing(world.store), found.choices[0].digest, "math").name == "math"
