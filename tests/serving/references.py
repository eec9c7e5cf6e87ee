"""What an answer must be: computed by transformers alone, from a folder in which the skills are installed."""

from __future__ import annotations

from typing import NamedTuple

import torch
import transformers

import skillpack

MARGIN = 2e-3
"""Logits that are closer than this may change places by rounding; an answer may differ from there on."""


class Answer(NamedTuple):
    """A greedy answer: its tokens, and how far the logit of each was from the next one's."""

    tokens: list[int]
    margins: list[float]


class Reference:
    """Greedy answers of a base with skills."""

    def __init__(self, base, store, room):
        self.base, self.store, self.room = base, store, room
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(base)
        self.models, self.answers = {}, {}

    def model(self, skills):
        """The model with skills such as ("math@1=0.5", "code")."""
        key = tuple(sorted(skills))
        if key not in self.models:
            folder = self.base
            if key:
                folder = self.room / "+".join(key)
                skillpack.install(list(key), self.base, output=folder, store=self.store)
            self.models[key] = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        return self.models[key]

    def chat(self, content):
        """Tokens of a chat of one turn."""
        turns = [{"role": "user", "content": content}]
        text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        return self.tokenizer(text, add_special_tokens=False).input_ids

    def answer(self, skills, prompt, most):
        """The greedy answer to a prompt, one token after the other, without a cache."""
        key = (tuple(sorted(skills)), tuple(prompt), most)
        if key not in self.answers:
            model, ids, margins = self.model(skills), list(prompt), []
            with torch.no_grad():
                for _ in range(most):
                    values, tokens = model(torch.tensor([ids])).logits[0, -1].topk(2)
                    ids.append(int(tokens[0]))
                    margins.append(float(values[0] - values[1]))
                    if ids[-1] == self.tokenizer.eos_token_id:
                        break
            self.answers[key] = Answer(ids[len(prompt) :], margins)
        return self.answers[key]

    def text(self, answer, count=None):
        """The text of an answer, or of its first tokens."""
        return self.tokenizer.decode(answer.tokens[:count], skip_special_tokens=True)

    def agrees(self, text, skills, prompt, most):
        """Whether a text is the answer, or differs from it only from a token on whose choice was one of rounding."""
        answer = self.answer(skills, prompt, most)
        if text == self.text(answer):
            return True
        same = 0
        while same < len(answer.tokens) and text.startswith(self.text(answer, same + 1).rstrip("\ufffd")):
            same += 1
        return min(answer.margins[: same + 1]) < MARGIN
