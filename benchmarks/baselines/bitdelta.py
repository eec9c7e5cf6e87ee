"""BitDelta: one sign for each entry and one scale for each matrix.

Liu et al., "BitDelta: Your Fine-Tune May Only Be Worth One Bit", NeurIPS 2024. The scale is the mean magnitude, which
is nearest in squares, and may then be distilled: `distilled_scales`. As released, embedding, head and norms are taken
from the fine-tune (``embedding="whole"``), and an entry that did not change counts as positive. In bf16 many entries do
not change; signs at random, whose errors do not add up, may serve them better.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import product
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch

from benchmarks.baselines import sparse
from benchmarks.baselines.changes import EMBEDDINGS
from benchmarks.baselines.method import Method

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from typing_extensions import Self

    from benchmarks.baselines.changes import Changes
    from benchmarks.baselines.protocol import Moments
    from benchmarks.baselines.stream import Reader, Writer

Unchanged = Literal["positive", "random"]
UNCHANGED: tuple[Unchanged, ...] = ("positive", "random")


@dataclass(frozen=True)
class Signs:
    """A matrix of one magnitude; see `Coded`.

    Attributes:
        scale: the magnitude, fp32 scalar.
        positive: bool of the matrix's shape.
    """

    scale: torch.Tensor
    positive: torch.Tensor

    def matrix(self) -> torch.Tensor:
        """See `Coded`."""
        return torch.where(self.positive, self.scale, -self.scale)

    def write(self, stream: Writer) -> None:
        """See `Coded`."""
        stream.array(self.scale)
        stream.codes(self.positive, 1)


@dataclass(frozen=True, kw_only=True)
class BitDelta(Method):
    """BitDelta; see `Baseline`.

    Attributes:
        unchanged: the sign of entries that did not change; "positive" as released.
        scales: distilled scales, by name of the matrix; the mean magnitude where a matrix is not named.
    """

    name: ClassVar[str] = "BitDelta"
    unchanged: Unchanged = "positive"
    scales: Mapping[str, float] = field(default_factory=dict)

    def coder(self, changes: Changes, moments: Moments) -> Callable[[str, torch.Tensor], Signs]:
        """See `Method`."""
        del changes, moments
        return self.code

    def code(self, name: str, delta: torch.Tensor) -> Signs:
        """Code one matrix."""
        positive = delta > 0
        if self.unchanged == "positive":
            positive |= delta == 0
        else:
            coins = sparse.random_positions(delta.numel(), 0.5, name)
            heads = torch.zeros(delta.numel(), dtype=torch.bool)
            heads[torch.from_numpy(coins)] = True
            positive |= (delta == 0) & heads.reshape(delta.shape)
        scale = self.scales.get(name)
        return Signs(delta.abs().mean() if scale is None else torch.tensor(scale), positive)

    def read(self, shape: tuple[int, int], name: str, stream: Reader) -> Signs:
        """See `Method`."""
        del name
        scale = stream.array(torch.float32)
        return Signs(scale, torch.from_numpy(stream.codes(shape[0] * shape[1], 1) > 0).reshape(shape))

    def settings(self) -> dict[str, Any]:
        """See `Method`; the scales are stored with the signs."""
        return {"embedding": self.embedding, "unchanged": self.unchanged}

    @classmethod
    def sweep(cls) -> list[Self]:
        """As released, and with one bit or none for the embedding; there is nothing else to choose."""
        return [
            cls(embedding=embedding, unchanged=unchanged) for embedding, unchanged in product(EMBEDDINGS, UNCHANGED)
        ]


def distilled_scales(
    student: torch.nn.Module,
    teacher: torch.nn.Module,
    base: Mapping[str, torch.Tensor],
    batches: Iterable[Mapping[str, torch.Tensor]],
    *,
    rate: float = 1e-4,
    logits: Callable[[Any, Any], torch.Tensor] | None = None,
) -> dict[str, float]:
    """Scales for which a model's logits are nearer to those of the fine-tune, in mean squares; one step for each batch.

    As in the paper, Adam's rate falls to zero along a cosine. Nothing but the scales is trained.

    Args:
        student: the model that BitDelta gives; left with the new scales.
        teacher: the fine-tune.
        base: the base's value of each matrix that was coded, fp32, by its name; tied weights once.
        batches: what `logits` takes, such as token ids and attention mask.
        rate: Adam's rate at the start, in the units of the scales.
        logits: function of a model and a batch; all logits of tokens that are not masked if None.

    Returns:
        The scale of each matrix in `base`, for `BitDelta.scales`.
    """
    forward = logits or _all_logits
    places = dict(student.named_parameters(remove_duplicate=False))
    student.requires_grad_(requires_grad=False)
    signs = {name: (places[name].detach() - value).sign().to(torch.int8) for name, value in base.items()}
    scales = {name: (places[name].detach() - value).abs().mean().requires_grad_() for name, value in base.items()}
    batches = list(batches)
    optimiser = torch.optim.Adam(scales.values(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, max(1, len(batches)))
    for name in base:
        places[name].requires_grad_()
    for batch in batches:
        with torch.no_grad():
            wanted = forward(teacher, batch)
        torch.nn.functional.mse_loss(forward(student, batch), wanted).backward()  # type: ignore[no-untyped-call]
        for name, scale in scales.items():
            scale.grad = _taken(places[name]).mul(signs[name]).sum()
        optimiser.step()
        schedule.step()
        with torch.no_grad():
            for name, scale in scales.items():
                places[name].copy_(base[name] + scale * signs[name])
    return {name: scale.item() for name, scale in scales.items()}


def _taken(place: torch.Tensor) -> torch.Tensor:
    """The gradient of a parameter, which is cleared."""
    gradient = place.grad
    place.grad = None
    return torch.zeros_like(place) if gradient is None else gradient


def _all_logits(model: Any, batch: Any) -> torch.Tensor:
    found = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    return found[batch["attention_mask"].bool()]
