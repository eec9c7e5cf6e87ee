"""Overlay mode gives what merged weights would give without rounding, for all rows or for each row its own."""

from __future__ import annotations

import copy
import gc
import io
import itertools
import pickle
import random
import weakref
from collections import OrderedDict

import pytest
import torch
from safetensors.torch import save_file

import skillpack
from skillpack.errors import ConflictError, NotFoundError, UsageError, WrongBaseError
from skillpack.grafting.overlay.engine import Overlay
from skillpack.grafting.overlay.layer import Layer
from skillpack.grafting.overlay.parts import Factors
from skillpack.grafting.overlay.rowwise import RowWise
from skillpack.grafting.places import find_places
from tests.grafting.overlay.conftest import load
from tests.grafting.tools import bits, same

CHOICES = [
    {"exact": 1},
    {"wide": 1},
    {"thin": 1},
    {"thin": -0.5},
    {"exact": 0.5},
    {"thin": 0.7, "wide": 1},
    {"exact": 1, "wide": 0.3, "thin": 2},
]


def logits(model, ids):
    with torch.no_grad():
        return model(ids)[0]


@pytest.mark.parametrize("kept", [None, 0], ids=["blended", "not blended"])
def test_all_rows_are_those_of_the_merged_model(kind, batch, close, kept):
    model, ids = kind.load(), batch(3, 20)
    before, alone = bits(model), logits(model, ids)
    names = {id(module): set(vars(module)) for module in model.modules()}
    engine = kind.overlay(model, kept_bytes=kept)
    assert torch.equal(logits(model, ids), alone)
    for weights in CHOICES:
        engine.select(kind.choice(**weights))
        expected = logits(kind.merged(**weights), ids)
        assert close(logits(model, ids), expected), weights
        assert not close(alone, expected, 1e-3)
        assert same(bits(model), before)
    engine.select(())
    assert torch.equal(logits(model, ids), alone)
    for digest in engine.resident:
        engine.unload(digest)
    assert {id(module): set(vars(module)) for module in model.modules()} == names
    assert engine.nbytes() == 0


def test_an_exact_skill_alone_gives_the_same_bits_as_its_fine_tune(kind, batch):
    model = kind.load("auto")
    engine = kind.overlay(model)
    engine.select(kind.choice(exact=1))
    ids = batch(2, 12)
    assert torch.equal(logits(model, ids), logits(load(kind.tuned["exact"], "auto"), ids))


ROWS = [{"exact": 1}, {}, {"thin": 1}, {"wide": 1}, {"thin": 0.5, "exact": 1}, {"wide": 0.3}, {"thin": 1}, {}]


@pytest.mark.parametrize("length", [4, 20], ids=["few tokens", "many tokens"])
@pytest.mark.parametrize("order", ["mixed", "in groups"])
def test_each_row_has_its_own_skills(kind, batch, close, length, order):
    model, ids = kind.load(), batch(len(ROWS), length)
    rows = ROWS if order == "mixed" else sorted(ROWS, key=str)
    engine = kind.overlay(model)
    engine.select(kind.choice(wide=1))
    expected = [logits(kind.merged(**weights), ids[row : row + 1])[0] for row, weights in enumerate(rows)]
    selected = logits(model, ids)
    for _ in range(2):
        with engine.rows([kind.choice(**weights) for weights in rows]):
            found = logits(model, ids)
        assert all(close(mine, right) for mine, right in zip(found, expected, strict=True))
        assert torch.equal(logits(model, ids), selected)


@pytest.mark.parametrize("length", [4, 20])
def test_rows_of_factors_alone(kind, batch, close, length):
    """Thin skills go through the factors of all at once where there are few tokens."""
    model, ids = kind.load(), batch(4, length, seed=3)
    engine = kind.overlay(model)
    rows = [{"thin": 1}, {"wide": -1}, {}, {"thin": 0.5}]
    with engine.rows([kind.choice(**weights) for weights in rows]):
        found = logits(model, ids)
    for row, weights in enumerate(rows):
        assert close(found[row], logits(kind.merged(**weights), ids[row : row + 1])[0])


def test_every_form_is_in_use(llama):
    """What the tests above go through: factors, rows, blended weights, stacked and split modules."""
    model = llama.load()
    engine = llama.overlay(model)
    thin = engine._resident[llama.digests["thin"]]
    kinds = {type(change.part) for change in thin.changes.values()}
    assert Factors in kinds
    assert type(None) in kinds
    assert any(change.width for change in engine._resident[llama.digests["wide"]].changes.values())
    assert not all(change.width for change in thin.changes.values())
    with engine.rows([llama.choice(thin=1), llama.choice(wide=1), ()]):
        actions = [layer.action for layer in engine._layers.values()]
        assert {action.stacked for action in actions if isinstance(action, RowWise)} == {True, False}


def test_beams_and_several_answers_repeat_rows(llama, batch, close):
    model, ids = llama.load(), batch(2, 6).repeat_interleave(3, 0)
    engine = llama.overlay(model)
    with engine.rows([llama.choice(thin=1), llama.choice(exact=1)]):
        found = logits(model, ids)
    expected = [logits(llama.merged(**weights), ids[:3]) for weights in ({"thin": 1}, {"exact": 1})]
    assert close(found[:3], expected[0])
    assert close(found[3:], logits(llama.merged(exact=1), ids[3:]))


def test_half_precision_is_close_to_the_installed_checkpoint(llama, batch, close):
    model, ids = llama.load(torch.bfloat16), batch(4, 30)
    engine = llama.overlay(model)
    expected = logits(llama.merged(thin=1), ids)
    for rows in ([llama.choice(thin=1)] * 4, [llama.choice(thin=1), (), llama.choice(thin=1), ()]):
        with engine.rows(rows):
            found = logits(model, ids)
        assert found.dtype == torch.bfloat16
        chosen = [row for row, choice in enumerate(rows) if choice]
        assert close(found[chosen].float(), expected[chosen], 0.05)


def test_random_steps_end_where_a_fresh_model_is(llama, batch):
    model, ids = llama.load(), batch(2, 8)
    engine, draw = llama.overlay(model), random.Random(1)
    before, found = bits(model), {}
    for _ in range(60):
        weights = {name: draw.choice([1, 0.5]) for name in llama.skills if draw.random() < 0.5}
        if draw.random() < 0.2:
            engine.select(())
            name = draw.choice(list(llama.skills))
            engine.unload(llama.digests[name])
            engine.load(llama.skills[name])
        engine.select(llama.choice(**weights))
        key = tuple(sorted(weights.items()))
        assert torch.equal(found.setdefault(key, logits(model, ids)), logits(model, ids))
    assert same(bits(model), before)


def test_blended_weights_stay_in_their_limit(llama, batch):
    model, ids = llama.load(), batch(1, 5)
    limit = 20_000
    engine = llama.overlay(model, kept_bytes=limit)
    held = engine.nbytes()
    for weight in (0.1, 0.2, 0.3, 0.4):
        engine.select(llama.choice(exact=weight))
        logits(model, ids)
        assert held <= engine.nbytes() <= held + limit
    assert engine.nbytes(llama.digests["thin"]) < held


def test_what_is_not_loaded_is_refused(llama):
    engine = Overlay(model := llama.load(), find_places(model))
    for call in (engine.select, engine.unload):
        with pytest.raises(NotFoundError):
            call(llama.choice(thin=1) if call == engine.select else llama.digests["thin"])
    engine.load(llama.skills["thin"])
    with pytest.raises(NotFoundError), engine.rows([llama.choice(thin=1), llama.choice(wide=1)]):
        pass
    engine.select(llama.choice(thin=1))
    with pytest.raises(UsageError, match="applies"):
        engine.unload(llama.digests["thin"])
    with pytest.raises(UsageError, match="weight"):
        engine.select(llama.choice(thin=0.0))
    with pytest.raises(UsageError, match="twice"):
        engine.select(llama.choice(thin=1) * 2)


def test_a_batch_that_is_no_multiple_of_the_rows_is_refused(llama, batch):
    model = llama.load()
    engine = llama.overlay(model)
    rows = engine.rows([llama.choice(thin=1), (), llama.choice(wide=1)])
    with pytest.raises(UsageError, match="3 rows, and the batch has 4"), rows:
        logits(model, batch(4, 5))
    assert torch.equal(logits(model, batch(4, 5)), logits(llama.load(), batch(4, 5)))


def test_a_load_that_fails_leaves_nothing(llama, kind, monkeypatch):
    model = llama.load()
    names = {id(module): set(vars(module)) for module in model.modules()}
    engine = Overlay(model, find_places(model))
    if kind.name != "llama":
        with pytest.raises(WrongBaseError):
            engine.load(kind.skills["thin"])
    calls = itertools.count()
    true = Layer.attach

    def attach(layer):
        true(layer)
        if next(calls) == 7:
            raise KeyboardInterrupt

    monkeypatch.setattr(Layer, "attach", attach)
    with pytest.raises(KeyboardInterrupt):
        engine.load(llama.skills["thin"])
    assert engine.resident == ()
    assert {id(module): set(vars(module)) for module in model.modules()} == names


class Nested(torch.nn.Module):
    """Has weights of its own beside those of a layer in it."""

    def __init__(self, scale):
        super().__init__()
        torch.manual_seed(0)
        self.mix = torch.nn.Parameter(scale * torch.eye(8))
        self.inner = torch.nn.Linear(8, 8, bias=False)

    def forward(self, x):
        return self.inner(x) @ self.mix


@pytest.mark.parametrize("path", ["", "layer."])
def test_layers_in_a_layer_that_is_run_apart_cannot_differ_by_row(tmp_path, path):
    model = torch.nn.Sequential(OrderedDict(layer=Nested(1.0))) if path else Nested(1.0)
    for name, scale in (("base", 1.0), ("tuned", 2.0)):
        weight = scale * model.state_dict()[f"{path}inner.weight"]
        tensors = {f"{path}mix": scale * torch.eye(8), f"{path}inner.weight": weight}
        save_file(tensors, tmp_path / f"{name}.safetensors")
    store = tmp_path / "store"
    skillpack.pack(tmp_path / "base.safetensors", tmp_path / "tuned.safetensors", "doubled", exact=True, store=store)
    host, x = skillpack.host(model, mode="overlay", store=store), torch.randn(4, 3, 8)
    before = model(x)
    with host.using("doubled"):
        assert torch.allclose(model(x), 4 * before)
    # With as many rows of each as there are rows in all, one skill would be taken for the other without an error.
    with pytest.raises(ConflictError, match="run for the rows of each skill apart"), host.rows([None, "doubled"]):
        model(x)
    assert torch.equal(model(x), before)


def test_modules_that_read_their_childrens_weights_are_refused():
    from skillpack.grafting.overlay.uses import check_called

    model = torch.nn.TransformerEncoder(torch.nn.TransformerEncoderLayer(8, 2, 16), 1, enable_nested_tensor=False)
    modules = dict(model.named_modules())
    for path in ("layers.0.linear1", "layers.0.self_attn.out_proj"):
        with pytest.raises(ConflictError, match="read by the module around it"):
            check_called(path, modules[path], modules)


def test_a_copy_goes_on_with_what_applies(llama, batch):
    model, ids = llama.load(), batch(2, 9)
    # Nothing is folded, so that the copy's own weights count.
    engine = llama.overlay(model, kept_bytes=0)
    engine.select(llama.choice(thin=1))
    applied = logits(model, ids)
    copied = copy.deepcopy(model)
    engine.select(())
    assert torch.equal(logits(copied, ids), applied)
    assert not torch.equal(logits(model, ids), applied)
    with torch.no_grad():
        copied.model.layers[0].mlp.up_proj.weight.zero_()
    assert not torch.equal(logits(copied, ids), applied)
    assert copied.state_dict().keys() == llama.load().state_dict().keys()


def test_a_pickled_model_is_the_base(llama, batch):
    model, ids = llama.load(), batch(2, 9)
    alone = logits(model, ids)
    engine = llama.overlay(model)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    assert torch.equal(logits(torch.load(file, weights_only=False), ids), alone)
    engine.select(llama.choice(thin=1))
    with pytest.raises(UsageError, match="cannot be pickled"):
        pickle.dumps(model)
    saved = model.state_dict()
    fresh = llama.load()
    fresh.load_state_dict(saved)
    assert torch.equal(logits(fresh, ids), alone)


def test_moved_models_take_their_skills_along(llama, batch, close):
    model, ids = llama.load(), batch(3, 9)
    engine = llama.overlay(model)
    engine.select(llama.choice(thin=1, exact=1))
    expected = logits(model, ids)
    model.double()
    assert close(logits(model, ids), expected.double())
    with engine.rows([llama.choice(exact=1, thin=1)] * 2 + [()]):
        assert close(logits(model, ids)[:2], expected[:2].double())
    model.float()
    assert close(logits(model, ids), expected)


def test_gradients_are_those_of_the_merged_model(llama, batch, close):
    found = []
    overlaid = llama.load()
    llama.overlay(overlaid, kept_bytes=0).select(llama.choice(thin=1))
    for model in (overlaid, llama.merged(thin=1)):
        inputs = model.get_input_embeddings()(batch(2, 7)).detach().requires_grad_()
        model(inputs_embeds=inputs).logits.square().mean().backward()
        found.append(inputs.grad)
    assert close(*found)


def test_what_was_made_in_inference_mode_can_be_differentiated(llama, batch):
    model, ids = llama.load(), batch(2, 7)
    engine = llama.overlay(model)
    rows = [llama.choice(thin=1), llama.choice(wide=0.5)]
    with torch.inference_mode(), engine.rows(rows):
        model(ids)
    with engine.rows(rows):
        model(ids).logits.square().mean().backward()
    assert model.lm_head.weight.grad.isfinite().all()


def test_offloaded_weights(llama, batch, close):
    from accelerate import cpu_offload

    ids = batch(2, 9)
    model = cpu_offload(llama.load(), execution_device=torch.device("cpu"))
    engine = llama.overlay(model)
    for weights in ({"exact": 1}, {"thin": 1}):
        engine.select(llama.choice(**weights))
        assert close(logits(model, ids), logits(llama.merged(**weights), ids))
    with engine.rows([llama.choice(thin=1), llama.choice(exact=1)]):
        assert close(logits(model, ids)[1:], logits(llama.merged(exact=1), ids[1:]))


@pytest.mark.parametrize("when", ["before", "after"])
def test_compiled_models(llama, batch, close, when):
    model, ids = llama.load(), batch(2, 9)
    torch._dynamo.reset()
    engine = None if when == "before" else llama.overlay(model)
    compiled = torch.compile(model, backend="eager")
    alone = logits(compiled, ids)
    engine = engine or llama.overlay(model)
    for weights in ({"thin": 1}, {"exact": 1}, {}):
        engine.select(llama.choice(**weights))
        assert close(logits(compiled, ids), logits(llama.merged(**weights), ids)), weights
    with engine.rows([llama.choice(thin=1), llama.choice(exact=1)]):
        assert close(logits(compiled, ids)[1:], logits(llama.merged(exact=1), ids[1:]))
    engine.select(())
    for digest in engine.resident:
        engine.unload(digest)
    assert close(logits(compiled, ids), alone)


def test_wrong_base(llama, kind):
    if kind.name == "llama":
        pytest.skip("its own base")
    model = kind.load()
    with pytest.raises(WrongBaseError):
        Overlay(model, find_places(model)).load(llama.skills["thin"])


def test_memory_is_told(llama):
    model = llama.load()
    host = skillpack.host(model, mode="overlay", store=llama.store)
    host.load("thin", "exact")
    weights = sum(weight.nbytes for weight in model.parameters())
    by_name = {each.name: each.nbytes for each in host.resident}
    assert 0 < by_name["thin"] < by_name["exact"] <= weights


@pytest.mark.parametrize("cache_bytes", [0, None])
def test_memory_for_whole_weights_is_bounded_as_asked(llama, batch, close, cache_bytes):
    model, ids = llama.load(), batch(2, 9)
    host = skillpack.host(model, mode="overlay", store=llama.store, cache_bytes=cache_bytes)
    host.graft("wide")
    found = logits(model, ids)
    assert close(found, logits(llama.merged(wide=1), ids))
    blends = host._engine._overlay._blends
    assert (blends.nbytes > 0) == (cache_bytes is None)
    assert blends.nbytes <= blends.limit


def test_factors_of_the_last_mixed_batch_alone_are_held(llama, batch):
    model, ids = llama.load(), batch(2, 4)
    engine = llama.overlay(model)
    held = []
    for rows in ([llama.choice(thin=1), llama.choice(wide=1)], [llama.choice(thin=1), ()]):
        with engine.rows(rows):
            logits(model, ids)
        held.append([weakref.ref(layer.stack) for layer in engine._layers.values() if layer.stack is not None])
    gc.collect()
    last = {id(layer.stack) for layer in engine._layers.values()}
    assert held[0]
    assert held[1]
    assert all(stack() is None or id(stack()) in last for each in held for stack in each)
    assert any(stack() is None for stack in held[0])
