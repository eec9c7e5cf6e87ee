"""A tiny language model and a fine-tune of it."""

from __future__ import annotations

import torch
from transformers import LlamaConfig, LlamaForCausalLM

VOCABULARY = 96


def write_pair(folder, *, tied=True, dtype=torch.bfloat16, **settings):
    """Folders of a base and of a fine-tune, in which every tensor changed."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=48,
        intermediate_size=80,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=tied,
        **settings,
    )
    torch.manual_seed(1)
    model = LlamaForCausalLM(config).to(dtype)
    model.save_pretrained(folder / "base")
    torch.manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(drift(parameter).to(dtype))
    model.save_pretrained(folder / "tuned")
    return folder / "base", folder / "tuned"


def drift(parameter, scale=0.01):
    """A change as training makes it: a few strong directions and a little of everything."""
    noise = torch.randn(parameter.shape)
    if parameter.ndim < 2:
        return scale * noise
    strong = torch.randn(parameter.shape[0], 3) @ torch.randn(3, parameter.shape[1])
    return scale * (strong / 3**0.5 + 0.3 * noise)


def random_tokens(count, length, seed=3):
    tokens = torch.randint(VOCABULARY, (count, length), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
