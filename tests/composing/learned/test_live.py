from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers

import skillpack
from skillpack.checkpoint import open_checkpoint
from skillpack.composing.learned.deltas import Product, Whole
from skillpack.composing.learned.examples import Examples
from skillpack.composing.learned.fitting import measure, passes
from skillpack.composing.learned.live import LiveSum
from skillpack.errors import ConflictError, UsageError, WrongBaseError
from skillpack.grafting.addresses import Shelf
from skillpack.live.models import open_tokenizer
from skillpack.texts import Sample
from tests.live import models


def examples(live, tiny, *, labelled):
    return Examples(tiny.tasks, live.model, tiny.tokenizer, batch=4, max_tokens=64, seed=0, labelled=labelled)


def test_a_product_is_the_matrix_it_stands_for():
    left, right, gradient = torch.randn(5, 2), torch.randn(2, 7), torch.randn(5, 7)
    product, whole = Product(left, right), Whole(left @ right)
    torch.testing.assert_close(product.values(), whole.values())
    assert product.dot(gradient) == pytest.approx(float((gradient * (left @ right)).sum()), rel=1e-4)
    assert whole.dot(gradient) == pytest.approx(product.dot(gradient), rel=1e-4)
    for delta in (product, whole):
        target = torch.ones(5, 7)
        delta.add_to(target, -0.5)
        torch.testing.assert_close(target, 1 - 0.5 * left @ right)


def test_large_deltas_are_kept_in_half_the_memory():
    assert Whole(torch.zeros(300, 300)).kept.dtype == torch.bfloat16
    assert Whole(torch.zeros(100, 100)).kept.dtype == torch.float32


@pytest.mark.parametrize("kind", ["", "-exact"])
def test_it_predicts_what_an_installed_sum_predicts(tiny, opened, kind, tmp_path):
    names = [f"english{kind}=0.7", f"german{kind}=-0.25"]
    skillpack.install(names[0], tiny.base, output=tmp_path / "both", store=tiny.store)
    skillpack.install(names[1], tmp_path / "both", store=tiny.store)
    installed = open_checkpoint(tmp_path / "both")
    live = LiveSum(tiny.base, opened(f"english{kind}", f"german{kind}"))
    live.set(torch.tensor([[0.7, -0.25]]).expand(len(live.spots), 2))
    for spot in live.spots:
        wanted = torch.from_numpy(installed.read(spot.name).float32())
        # The folder has it rounded to bf16.
        torch.testing.assert_close(spot.place.values, wanted, rtol=2**-7, atol=1e-6)


@pytest.mark.parametrize("labelled", [True, False])
def test_derivatives_are_those_of_finite_differences(tiny, opened, labelled):
    live = LiveSum(tiny.base, opened("english", "german"))
    drawn = examples(live, tiny, labelled=labelled).draw()
    weights = torch.full((len(live.spots), 2), 0.4)
    live.set(weights)
    found, take = live.weight_gradient()
    loss = passes(live, drawn, take)
    assert loss == pytest.approx(measure(live, drawn), rel=1e-6)
    for number, skill in ((0, 0), (3, 1), (len(live.spots) - 1, 0)):
        step = torch.zeros_like(weights)
        step[number, skill] = 0.01
        sides = []
        for side in (weights + step, weights - step):
            live.set(side)
            sides.append(measure(live, drawn))
        assert float(found[number, skill]) == pytest.approx((sides[0] - sides[1]) / 0.02, rel=2e-3, abs=1e-4)


def test_thin_deltas_stay_factors_and_give_the_same_derivatives(tmp_path):
    base = models.llama(tmp_path / "base", torch_dtype="bfloat16")
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    torch.manual_seed(0)
    with torch.no_grad():
        for layer in model.model.layers:
            weight = layer.mlp.up_proj.weight
            weight += 0.3 * torch.randn(weight.shape[0], 1) @ torch.randn(1, weight.shape[1])
    skillpack.pack(base, models.save(tmp_path / "tuned", model), "thin", quality=0.8, store=tmp_path / "store")
    (active,) = Shelf(tmp_path / "store", "main").find(["thin"])
    live = LiveSum(base, [active.skill])
    thin = [spot.deltas[0] for spot in live.spots if isinstance(spot.deltas[0], Product)]
    assert thin
    entries = {entry.reference: entry for entry in active.skill.manifest.tensors}
    for spot in live.spots:
        if isinstance(spot.deltas[0], Product):
            decoded = active.skill.decode(entries[spot.name], None).delta
            np.testing.assert_allclose(spot.deltas[0].values().numpy(), decoded, rtol=1e-4, atol=1e-5)


def test_tied_weights_are_one_spot_with_all_their_names(tmp_path):
    base = models.llama(tmp_path / "base", torch_dtype="bfloat16")
    tuned = models.trained(base, tmp_path / "tuned", ["abc"], steps=3)
    skillpack.pack(base, tuned, "one", store=tmp_path / "store")
    live = LiveSum(base, [active.skill for active in Shelf(tmp_path / "store", "main").find(["one"])])
    named = live.by_name(list(range(len(live.spots))))
    assert sorted(named) == sorted(live.names)
    assert len(set(named.values())) == len(live.spots)


def test_classifiers(tmp_path):
    base = models.bert(tmp_path / "base", dtype=torch.float32)
    tuned = models.moved(base, tmp_path / "tuned", scale=0.3)
    skillpack.pack(base, tuned, "labels", exact=True, store=tmp_path / "store")
    live = LiveSum(base, [active.skill for active in Shelf(tmp_path / "store", "main").find(["labels"])])
    texts = [Sample(text=text, label=place % 3) for place, text in enumerate(["one", "two", "three", "four"])]
    for labelled in (True, False):
        drawn = Examples(
            [texts],
            live.model,
            open_tokenizer(base),
            batch=4,
            max_tokens=64,
            seed=0,
            labelled=labelled,
        ).draw()
        weights = torch.full((len(live.spots), 1), 0.5)
        live.set(weights)
        found, take = live.weight_gradient()
        passes(live, drawn, take)
        sides = []
        for side in (0.51, 0.49):
            live.set(torch.full_like(weights, side))
            sides.append(measure(live, drawn))
        assert float(found.sum()) == pytest.approx((sides[0] - sides[1]) / 0.02, rel=5e-3, abs=1e-4)


def test_another_base_is_refused(tiny, opened, tmp_path):
    other = models.llama(tmp_path / "other", seed=5, torch_dtype="bfloat16")
    with pytest.raises(WrongBaseError):
        LiveSum(other, opened("english"))


def test_what_cannot_be_weighted_is_refused(tiny, tmp_path):
    model = transformers.AutoModelForCausalLM.from_pretrained(tiny.base)
    model.resize_token_embeddings(model.config.vocab_size + 4, mean_resizing=False)
    skillpack.pack(tiny.base, models.save(tmp_path / "grown", model), "grown", store=tmp_path / "store")
    with pytest.raises(ConflictError):
        LiveSum(tiny.base, [active.skill for active in Shelf(tmp_path / "store", "main").find(["grown"])])


def test_a_changed_buffer_is_refused(tmp_path):
    """Of these experts a fine-tune moves the bias of their choice, which no derivative is known for."""
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1, "n_shared_experts": 1}
    sizes = {"kv_lora_rank": 8, "q_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
    torch.manual_seed(0)
    model = transformers.DeepseekV3ForCausalLM(
        transformers.DeepseekV3Config(
            **models.SIZES, **experts, **sizes, first_k_dense_replace=1, moe_intermediate_size=16
        )
    )
    base = models.save(tmp_path / "base", model)
    name = "model.layers.1.mlp.gate.e_score_correction_bias"
    model.get_buffer(name).add_(0.5)
    skillpack.pack(base, models.save(tmp_path / "tuned", model), "biased", exact=True, store=tmp_path / "store")
    (active,) = Shelf(tmp_path / "store", "main").find(["biased"])
    with pytest.raises(ConflictError, match="e_score_correction_bias") as caught:
        LiveSum(base, [active.skill])
    assert "biased" in str(caught.value)
    assert caught.value.hint


def test_an_unknown_device_is_refused(tiny, opened):
    with pytest.raises(UsageError, match="warp"):
        LiveSum(tiny.base, opened("english"), "warp")
