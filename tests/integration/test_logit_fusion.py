"""Logit fusion on SmolLM2: where large and small are the same model, the skill is all that is left of the formula."""

from __future__ import annotations

import pytest
import torch
import transformers

import skillpack

pytestmark = [pytest.mark.real_model, pytest.mark.xdist_group("smollm2")]

NUMBERS = [7, 19, 346, 81_020]


def test_a_skill_fused_into_its_own_base_answers_as_on_it(smol):
    tokenizer = transformers.AutoTokenizer.from_pretrained(smol.base, padding_side="left")
    large, small = (
        transformers.AutoModelForCausalLM.from_pretrained(smol.base, dtype=torch.float32).eval() for _ in range(2)
    )
    chats = [[{"role": "user", "content": f"Write {number} in Spanish words."}] for number in NUMBERS]
    template = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True, "padding": True}
    inputs = tokenizer.apply_chat_template(chats, **template)
    options = {"max_new_tokens": 12, "do_sample": False, "return_dict_in_generate": True, "output_scores": True}
    with skillpack.LogitFusion(large, small, "spanish", store=smol.store) as fusion:
        found = fusion.generate(**inputs, **options)
        assert torch.allclose(fusion.weights, torch.ones(1, len(NUMBERS)), atol=0.02)
    with skillpack.host(small, mode="overlay", store=smol.store).using("spanish"):
        expected = small.generate(**inputs, **options)
    assert torch.equal(found.sequences, expected.sequences)
    for ours, own in zip(found.scores, expected.scores, strict=True):
        assert (ours.exp() - own.softmax(-1)).abs().max() < 0.01
    plain = large.generate(**inputs, **options)
    assert not torch.equal(plain.sequences, found.sequences)
