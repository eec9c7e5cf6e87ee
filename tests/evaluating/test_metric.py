"""Sensitivities say what errors in a tensor cost."""

from __future__ import annotations

import json

import pytest
import torch

import skillpack
from skillpack.errors import DataError, NotFiniteError, UsageError
from skillpack.evaluating.scores import divergence
from skillpack.live.batches import encode
from skillpack.live.models import open_model
from skillpack.live.predictions import predict
from skillpack.packing.metric import sensitivities
from tests.live import models

pytestmark = pytest.mark.usefixtures("room")

DOWN = "model.layers.1.mlp.down_proj.weight"


@pytest.fixture(scope="module")
def batches(opened, texts):
    return encode(texts * 8, opened[1], 64, 120)


def mean_kl(model, tuned, batches):
    found = []
    for batch in batches:
        with torch.no_grad():
            found.append(divergence(predict(model, batch), predict(tuned, batch)).kl)
    return float(torch.cat(found).double().mean())


@pytest.mark.parametrize("layer", ["layers.1.mlp.down_proj", "layers.0.self_attn.v_proj", "layers.0.self_attn.q_proj"])
def test_fisher_tells_what_noise_costs(llama, opened, batches, tmp_path, layer):
    noisy = open_model(models.moved(llama.tuned, tmp_path / "noisy", 0.01, names=layer, dtype=torch.float32))
    name = f"model.{layer}.weight"
    before, after = (dict(model.named_parameters())[name].detach().float() for model in (opened[0], noisy))
    found = [sensitivities("fisher", opened[0], batches, seed=seed)[name] for seed in range(6)]
    expected = 0.5 * float((after - before).square().sum()) * sum(found) / len(found)
    assert mean_kl(noisy, opened[0], batches) == pytest.approx(expected, rel=0.5)


def test_activations_are_mean_squares_of_inputs(opened, batches):
    model = opened[0]
    seen = []
    layer = dict(model.named_modules())[DOWN.removesuffix(".weight")]
    handle = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    found = sensitivities("activation", model, batches[:1])[DOWN]
    handle.remove()
    real = batches[0].attention_mask.bool()
    assert found == pytest.approx(float(seen[0][real].square().mean()), rel=1e-4)
    assert len(layer._forward_pre_hooks) == 0


def test_identity_needs_nothing(opened):
    assert sensitivities("identity", opened[0], []) == {}


def test_the_same_texts_give_the_same_sensitivities(opened, batches):
    assert sensitivities("fisher", opened[0], batches) == sensitivities("fisher", opened[0], batches)


def test_a_model_that_predicts_nan_is_refused(llama, batches, tmp_path):
    broken = models.moved(llama.tuned, tmp_path / "broken", float("nan"), names="layers.1.mlp.down_proj")
    with pytest.raises(NotFiniteError, match="predicts NaN"):
        sensitivities("fisher", open_model(broken), batches)


def pack(llama, store, name="weighed", **arguments):
    return skillpack.pack(llama.base, llama.tuned, name, store=store, **{"quality": 0.9, **arguments})


def test_texts_change_the_skill_and_it_is_measured(llama, texts, tmp_path):
    plain = pack(llama, tmp_path / "store", "plain")
    weighed = pack(llama, tmp_path / "store", calibration=texts)
    assert weighed.digest != plain.digest
    assert weighed.measured.samples == len(texts)
    unweighed = pack(llama, tmp_path / "store", "unweighed", calibration=texts, metric="identity")
    assert unweighed.digest == plain.digest


def test_statistics_are_kept_and_stand_in_for_texts(llama, texts, tmp_path):
    file = tmp_path / "statistics.json"
    first = pack(llama, tmp_path / "store", calibration=texts, statistics=file)
    known = json.loads(file.read_text())
    assert (known["metric"], min(known["sensitivity"].values()) > 0) == ("fisher", True)
    again = pack(llama, tmp_path / "store", statistics=file)
    assert again.digest == first.digest
    assert again.measured is None


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda known: known | {"tuned": "sha256:00"}, "is about another fine-tune"),
        (lambda known: known | {"metric": "activation"}, "is about the metric 'activation', not fisher"),
        (lambda known: known | {"sensitivity": {"a": -1.0}}, "holds no statistics"),
        (lambda known: [known], "holds no statistics"),
        (lambda _: "no", "is not JSON"),
    ],
)
def test_statistics_that_do_not_fit_are_refused(llama, texts, tmp_path, spoil, message):
    file = tmp_path / "statistics.json"
    pack(llama, tmp_path / "store", calibration=texts, statistics=file, dry_run=True)
    spoilt = spoil(json.loads(file.read_text()))
    file.write_text(spoilt if isinstance(spoilt, str) else json.dumps(spoilt))
    with pytest.raises(DataError, match=message):
        pack(llama, tmp_path / "store", statistics=file)


def test_an_exact_pack_has_no_use_for_texts(llama, texts, tmp_path):
    for arguments in ({"calibration": texts}, {"metric": "fisher"}, {"statistics": tmp_path / "file"}):
        with pytest.raises(UsageError, match="no use for texts"):
            skillpack.pack(llama.base, llama.tuned, "exact", exact=True, store=tmp_path / "store", **arguments)
