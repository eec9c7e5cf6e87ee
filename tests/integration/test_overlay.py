"""Overlay mode on SmolLM2: merged mode without rounding, by row and for all rows, and the same choices of tokens."""

from __future__ import annotations

import pytest
import torch
import transformers

import skillpack

pytestmark = [pytest.mark.real_model, pytest.mark.xdist_group("smollm2")]

TOLERANCE = 2e-3
PROMPTS = [f"{name} {number}" for name in ("Escribe el número", "Écris le nombre", "Write") for number in range(3, 10)][
    :20
]


def test_overlay_is_merged_without_rounding(smol):
    tokenizer = transformers.AutoTokenizer.from_pretrained(smol.base)
    live, merged = (
        skillpack.host(
            transformers.AutoModelForCausalLM.from_pretrained(smol.base, dtype=torch.float32).eval(),
            mode=mode,
            store=smol.store,
        )
        for mode in ("overlay", "merged")
    )
    chats = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    options = {"add_generation_prompt": True, "return_tensors": "pt", "return_dict": True, "padding": True}
    inputs = tokenizer.apply_chat_template(chats, **options)
    skills = [["spanish", "french", None][row % 3] for row in range(len(PROMPTS))]
    expected = {}
    with torch.inference_mode():
        for name in ("spanish", "french"):
            with merged.using(name):
                expected[name] = merged.model(**inputs).logits
        expected[None] = merged.model(**inputs).logits
        with live.rows(skills):
            mixed = live.model(**inputs).logits
        with live.using("spanish"):
            alone = live.model(**inputs).logits
    mask = inputs["attention_mask"].bool()
    right = torch.stack([expected[name][row] for row, name in enumerate(skills)])
    for found, wanted in ((mixed, right), (alone, expected["spanish"])):
        found, wanted = found[mask], wanted[mask]  # noqa: PLW2901 - without the padding
        errors = (found - wanted).norm(dim=1) / wanted.norm(dim=1)
        assert errors.max() < TOLERANCE
        top = wanted.topk(2).values
        clear = top[:, 0] - top[:, 1] > TOLERANCE * wanted.abs().max(dim=1).values
        assert clear.float().mean() > 0.9
        assert torch.equal(found.argmax(1)[clear], wanted.argmax(1)[clear])
    assert not torch.allclose(right[0][mask[0]], expected[None][0][mask[0]], atol=1e-2)
    live.verify()
