"""A smaller sibling of SmolLM2-135M with the same tokenizer: half of its layers, healed by a short distillation.

The layers that are left are evenly spread. Their output is led back to that of the whole model (KL over all tokens) on
text that has nothing to do with the tasks: news (Lee, Pincombe and Welsh, "An empirical evaluation of models of text
document similarity", 2005; a file of gensim's tests) and reviews of drugs, half of it plain and half of it in chats.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from recipes.models import smollm2
from recipes.tasks.reviews import review_texts
from recipes.tasks.task import shuffled
from recipes.wheels import cache_dir, unpacked_wheel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import torch

NEWS_WHEEL = "gensim==4.4.0"
_REQUEST = "Continue this text: {}"
_WORDS = 40
"""Words of a text that stand in the request of a chat; the rest is the answer."""


@dataclass(frozen=True)
class Healing:
    """What decides the weights of the sibling.

    Attributes:
        layers: how many of the 30 are kept.
        steps: of the optimiser.
        batch: sequences per step.
        length: of a sequence, tokens.
        compared: of so many tokens in a row, one is compared with the whole model; the head costs a third of a step.
        learning_rate: of AdamW at the start; it falls to zero.
    """

    layers: int = 15
    steps: int = 64
    batch: int = 4
    length: int = 128
    compared: int = 4
    learning_rate: float = 6e-4

    @property
    def name(self) -> str:
        """Of the folder where the sibling is cached."""
        key = hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()
        return f"SmolLM2-{self.layers}-layers-{key[:10]}"

    def kept(self, layers: int) -> list[int]:
        """Which of so many layers are kept: the first, the last, and between them evenly.

        >>> Healing(layers=4).kept(10)
        [0, 3, 6, 9]
        """
        return [round(place * (layers - 1) / (self.layers - 1)) for place in range(self.layers)]


HEALING = Healing()
SIBLING = HEALING.name
"""Names the sibling as the base of a recipe, together with what decides its weights."""


def sibling(healing: Healing = HEALING, progress: Callable[[int, int, float], None] | None = None) -> Path:
    """Folder of the sibling as bf16 safetensors (163 MB), trained when this machine has not done so yet."""
    folder = cache_dir() / "models" / healing.name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if not folder.is_dir():
            with tempfile.TemporaryDirectory(dir=folder.parent) as work:
                _heal(healing, Path(work) / "model", progress or (lambda *_: None))
                (Path(work) / "model").rename(folder)
    return folder


def truncated(model: Any, healing: Healing) -> Any:
    """A copy of a Llama with fewer layers; embedding, norm and head are the whole model's."""
    import copy

    import torch

    smaller = copy.deepcopy(model)
    smaller.model.layers = torch.nn.ModuleList(
        smaller.model.layers[place] for place in healing.kept(len(model.model.layers))
    )
    for place, layer in enumerate(smaller.model.layers):
        layer.self_attn.layer_idx = place
    smaller.config.num_hidden_layers = healing.layers
    return smaller


def _heal(healing: Healing, target: Path, progress: Callable[[int, int, float], None]) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from skillpack.live.autocast import autocast

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(smollm2())
    teacher = AutoModelForCausalLM.from_pretrained(smollm2(), dtype=torch.float32).eval()
    student = truncated(teacher, healing).train()
    rows = torch.tensor(list(_rows(tokenizer, healing)))
    optimiser = torch.optim.AdamW(student.parameters(), lr=healing.learning_rate, weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / healing.steps)
    for step, batch in enumerate(rows.split(healing.batch)):
        with autocast("cpu"):
            value = _divergence(teacher, student, batch, healing.compared, step)
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        optimiser.zero_grad()
        progress(step + 1, healing.steps, value.item())
    student.to(torch.bfloat16).save_pretrained(target)
    tokenizer.save_pretrained(target)


def _divergence(teacher: Any, student: Any, batch: torch.Tensor, every: int, first: int) -> torch.Tensor:
    """Mean KL(teacher || student) in nats per token, at every so many tokens, from a place that differs by step."""
    import torch

    def predictions(model: Any) -> torch.Tensor:
        states = model.model(batch).last_hidden_state[:, first % every :: every]
        found: torch.Tensor = model.lm_head(states).float().log_softmax(-1).flatten(0, 1)
        return found

    with torch.no_grad():
        wanted = predictions(teacher)
    return torch.nn.functional.kl_div(predictions(student), wanted, log_target=True, reduction="batchmean")


def _rows(tokenizer: Any, healing: Healing) -> Iterator[list[int]]:
    """As many sequences of token ids as are trained on, every second one of them a chat."""
    texts = shuffled([*_news(), *review_texts("Train")])
    plain, chats = texts[::2], texts[1::2]
    running = [token for text in plain for token in (*tokenizer(text).input_ids, tokenizer.eos_token_id)]
    asked = (ids[: healing.length] for ids in map(_chat(tokenizer), chats) if len(ids) >= healing.length)
    for place in range(healing.steps * healing.batch // 2):
        yield running[place * healing.length : (place + 1) * healing.length]
        yield next(asked)


def _chat(tokenizer: Any) -> Callable[[str], list[int]]:
    def chat(text: str) -> list[int]:
        words = text.split()
        turns = [
            {"role": "user", "content": _REQUEST.format(" ".join(words[:_WORDS]))},
            {"role": "assistant", "content": " ".join(words[_WORDS:])},
        ]
        return list(tokenizer(tokenizer.apply_chat_template(turns, tokenize=False)).input_ids)

    return chat


def _news() -> list[str]:
    source = unpacked_wheel(NEWS_WHEEL) / "gensim" / "test" / "test_data" / "lee_background.cor"
    return source.read_text("utf-8").splitlines()
