"""The parts of the divergence add up to it where errors are small, and fall on the tensors that are wrong."""

from __future__ import annotations

import pytest
import torch

from skillpack.evaluating.blame import Blame
from skillpack.evaluating.scores import divergence
from skillpack.live.batches import encode
from skillpack.live.models import open_model
from skillpack.live.predictions import predict
from tests.live import models


def blamed(packed, opened, texts):
    """Mean KL, and the part of each tensor."""
    tuned, tokenizer = opened
    blame, kl = Blame(packed, tuned), []
    with blame.watching():
        for batch in encode(texts, tokenizer, 64, 60):
            with torch.no_grad():
                wanted = predict(tuned, batch)
            found = predict(packed, batch)
            kl.append(divergence(found, wanted).kl)
            blame.add(found, wanted)
    kl = torch.cat(kl)
    return kl.double().mean().item(), {share.name: share.kl for share in blame.shares(len(kl))}


@pytest.mark.parametrize("scale", [0.001, 0.004])
def test_parts_add_up_to_the_divergence(llama, opened, texts, tmp_path, scale):
    packed = models.moved(llama.tuned, tmp_path / "packed", scale, dtype=torch.float32)
    kl, parts = blamed(open_model(packed), opened, texts)
    assert kl > 1e-6
    assert sum(parts.values()) == pytest.approx(kl, rel=0.05)
    assert set(parts) == set(dict(open_model(packed).named_parameters()))


@pytest.mark.parametrize("name", ["layers.1.mlp.down_proj", "embed_tokens", "layers.0.input_layernorm"])
def test_the_tensor_that_is_wrong_is_blamed(llama, opened, texts, tmp_path, name):
    packed = models.moved(llama.tuned, tmp_path / "packed", 0.02, names=name, dtype=torch.float32)
    kl, parts = blamed(open_model(packed), opened, texts)
    (wrong,) = (tensor for tensor in parts if name in tensor)
    assert parts.pop(wrong) == pytest.approx(kl, rel=0.3)
    assert set(parts.values()) == {0.0}


def test_nothing_is_to_blame_without_errors(llama, opened, texts):
    kl, parts = blamed(open_model(llama.tuned), opened, texts)
    assert kl == 0
    assert set(parts.values()) == {0.0}
