"""Loading live models, and comparing them bit for bit."""

from __future__ import annotations

import torch
import transformers


def load(folder, dtype="auto"):
    """A language model, ready to run."""
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


def bits(model):
    """Name -> bytes, of all parameters and buffers."""
    state = {name: value.detach().cpu().contiguous() for name, value in model.state_dict().items()}
    return {name: value.flatten().view(torch.uint8).clone() for name, value in state.items()}


def same(left, right):
    """Whether two results of `bits` are equal."""
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)
