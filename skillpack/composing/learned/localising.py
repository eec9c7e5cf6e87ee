"""Skill localisation: the smallest region of a skill whose graft keeps what the skill is good for.

Panigrahi et al., "Task-Specific Skill Localization in Fine-tuned Language Models", ICML 2023 (arXiv 2302.06600).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, NamedTuple

import torch

from skillpack.composing.learned.fitting import measure, passes
from skillpack.composing.learned.masking import Masked
from skillpack.composing.selection import kept, kth_largest
from skillpack.errors import DataError, UsageError
from skillpack.progress import Stage

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from skillpack.composing.learned.examples import Examples
    from skillpack.composing.learned.live import LiveSum
    from skillpack.progress import Progress
    from skillpack.tensors import Floats

_HALVINGS: Final = 14
"""How often a region is halved at most."""


class RegionMask(Masked):
    """`Masked` under the name of its method."""

    name: ClassVar[str] = "localise"


class Region(NamedTuple):
    """A region of a skill.

    Attributes:
        masks: of each spot, bool in its shape.
        share: of the weights that the skill changes that are in it.
        kept: share of the skill's gain in negative log-likelihood over the base that its graft keeps, on texts that
            were not learned from where there are enough.
    """

    masks: list[torch.Tensor]
    share: float
    kept: float


class Localised(NamedTuple):
    """What came out.

    Attributes:
        chosen: the region that is composed.
        learned: the region after learning; None if no step was taken.
        magnitude: the regions of the largest changes that were tried, as (share, kept), falling; first the whole.
        losses: at each step before it was taken, nats per prediction.
    """

    chosen: Region
    learned: Region | None
    magnitude: list[tuple[float, float]]
    losses: tuple[float, ...]


@dataclass(frozen=True)
class Localise:
    """theta(gamma) = theta_0 + gamma * tau with a binary gamma that keeps few entries.

    The region of a share s begins as the s largest changes. From there gamma = b + (1 - 2 b) sigmoid(S), b being that
    first mask, is learned by gradient descent on the cross-entropy of answers: S begins at -`bias`, where gamma is all
    but b, and each entry can leave or enter; in the end gamma is rounded. If a share is asked for, no more entries stay
    than that, those whose gates are the most open. Without one, halves of halves are tried until the graft keeps less
    than `keep` of the skill's gain, and learning goes on from there: it may make the small region do.

    Attributes:
        share: of the weights that the skill changes; None to look for the smallest that keeps enough.
        keep: share of the gain that is enough.
        rate: of gradient descent; that large since the sigmoid is all but flat where S begins.
        bias: see above.
    """

    name: ClassVar[str] = "localise"
    labelled: ClassVar[bool] = True

    share: float | None = None
    keep: float = 0.95
    rate: float = 1e7
    bias: float = 10.0

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            UsageError: one is not between 0 and 1.
        """
        for what, value in (("share", self.share), ("keep", self.keep)):
            if value is not None and not 0 < value <= 1:
                raise UsageError(f"{what}={value:g} is not between 0 and 1", hint=f"Try --option {what}=0.5.")

    def learn(self, live: LiveSum, examples: Examples, held_out: Examples, steps: int, progress: Progress) -> Localised:
        """Find the region.

        Args:
            live: the base with one skill.
            examples: what to learn from.
            held_out: what to measure on.
            steps: of gradient descent.
            progress: called during the work; counts bytes of the weights that are set.

        Raises:
            DataError: the skill is no better than the base on the texts.
            NotFiniteError: the model predicts NaN or infinity.
        """
        gain = _Gain(live, held_out)
        tried = self._by_magnitude(live, gain, progress)
        learned: Region | None = None
        losses: tuple[float, ...] = ()
        if steps:
            masks, losses = self._refine(live, examples, tried[-1].masks, steps, progress)
            learned = gain.region(masks)
        found = [*tried[-2:], *([] if learned is None else [learned])]
        return Localised(self._best(found), learned, [(region.share, region.kept) for region in tried], losses)

    def _best(self, regions: Sequence[Region]) -> Region:
        """The smallest that keeps enough; of a share that was asked for, or if none does, the one that keeps most."""
        enough = [region for region in regions if region.kept >= self.keep]
        if self.share is None and enough:
            return min(enough, key=lambda region: region.share)
        return max(regions, key=lambda region: region.kept)

    def _by_magnitude(self, live: LiveSum, gain: _Gain, progress: Progress) -> list[Region]:
        """Regions of the largest changes; masks of the last two only are kept."""
        shares = [self.share] if self.share is not None else [2.0**-power for power in range(1, _HALVINGS + 1)]
        stage = Stage(progress, "trying regions", len(shares) * live.nbytes)
        tried = [gain.whole()] if self.share is None else []
        for share in shares:
            if len(tried) > 1:
                tried[-2] = tried[-2]._replace(masks=[])
            tried.append(gain.region(largest(live, share)))
            stage.advance(live.nbytes)
            if tried[-1].kept < self.keep:
                break
        return tried

    def _refine(
        self, live: LiveSum, examples: Examples, first: Sequence[torch.Tensor], steps: int, progress: Progress
    ) -> tuple[list[torch.Tensor], tuple[float, ...]]:
        stage = Stage(progress, "learning the region", steps * live.nbytes)
        scores = [torch.full(mask.shape, -self.bias, device=live.device) for mask in first]
        losses = []
        for _ in range(steps):
            for number, mask in enumerate(first):
                live.write(number, gate(mask, scores[number]) * _values(live, number))
            found = [torch.zeros_like(each) for each in scores]

            def take(number: int, gradient: torch.Tensor, found: list[torch.Tensor] = found) -> None:
                found[number] += gradient * _values(live, number)

            losses.append(passes(live, examples.draw(), take))
            for mask, score, slope in zip(first, scores, found, strict=True):
                score.sub_(self.rate * slope * gate_slope(mask, score))
            stage.advance(live.nbytes)
        logits = [torch.where(mask, -score, score) for mask, score in zip(first, scores, strict=True)]
        return open_gates(logits, self.share), tuple(losses)


class _Gain:
    """What grafts of regions keep of what the whole skill gains over the base."""

    def __init__(self, live: LiveSum, held_out: Examples) -> None:
        self._live, self._pieces = live, held_out.all()
        live.set(torch.zeros(len(live.spots), 1))
        self._base = measure(live, self._pieces)
        live.set(torch.ones(len(live.spots), 1))
        self._whole = measure(live, self._pieces)
        if self._whole >= self._base:
            raise DataError(
                f"the skill is no better than the base on these texts ({self._whole:.3f} and {self._base:.3f} nats per "
                "predicted token), so there is nothing to localise",
                hint="Give texts of the skill's own task, with answers.",
            )

    def whole(self) -> Region:
        """All that the skill changes."""
        return Region([torch.ones_like(spot.base, dtype=torch.bool) for spot in self._live.spots], 1.0, 1.0)

    def region(self, masks: list[torch.Tensor]) -> Region:
        """Graft a region and measure it."""
        for number, mask in enumerate(masks):
            self._live.write(number, mask * _values(self._live, number))
        kept = (self._base - measure(self._live, self._pieces)) / (self._base - self._whole)
        share = sum(int(mask.sum()) for mask in masks) / sum(mask.numel() for mask in masks)
        return Region(masks, share, kept)


def gate(first: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Gamma = b + (1 - 2 b) sigmoid(S), fp32."""
    return torch.where(first, 1 - scores.sigmoid(), scores.sigmoid())


def gate_slope(first: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Derivative of `gate` for the scores: (1 - 2 b) sigmoid(S) (1 - sigmoid(S))."""
    slope = scores.sigmoid() * (1 - scores.sigmoid())
    return torch.where(first, -slope, slope)


def largest(live: LiveSum, share: float) -> list[torch.Tensor]:
    """Masks of the largest changes of a skill over all tensors, exactly so many unless some are equal.

    Args:
        live: the base with one skill.
        share: of all entries that the skill changes.
    """
    count = sum(spot.base.numel() for spot in live.spots)

    def changes() -> Iterator[Floats]:
        for number in range(len(live.spots)):
            yield _values(live, number).cpu().numpy().reshape(-1)

    threshold = kth_largest(changes, [kept(count, share)])[0]
    found = (_values(live, number).abs() for number in range(len(live.spots)))
    return [(size >= threshold) & (size > 0) for size in found]


def open_gates(logits: Sequence[torch.Tensor], share: float | None) -> list[torch.Tensor]:
    """Masks of the gates that are more open than shut, and of these, if a share of all is given, the most open ones.

    Args:
        logits: of gates, fp32; logit(gamma) is S where an entry was left out at first, and -S where it was not.
        share: of all gates that may be open.
    """
    threshold = 0.0
    if share is not None:

        def opened() -> Iterator[Floats]:
            for each in logits:
                yield each.clamp(min=0).cpu().numpy().reshape(-1)

        threshold = kth_largest(opened, [kept(sum(each.numel() for each in logits), share)])[0]
    return [(each > 0) & (each >= threshold) for each in logits]


def _values(live: LiveSum, number: int) -> torch.Tensor:
    delta = live.spots[number].deltas[0]
    assert delta is not None
    return delta.values()
