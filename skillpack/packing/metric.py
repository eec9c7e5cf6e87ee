r"""How much errors in a tensor matter, found out from texts.

To second order KL(tuned || tuned + E) is half of <E, F E>, F being the Fisher information of what the fine-tune
predicts. The errors of a skill are noise that is independent from entry to entry and from tensor to tensor, so that of
F only the diagonal counts, and of the diagonal of a tensor its mean: a tensor's sensitivity. That is one number for
each tensor, which even a few texts of another kind find well enough. Errors cost the same everywhere, and the sum is
smallest for a given size, where steps are in proportion to sensitivity**(-1/2).

`fisher` is that mean, of squared gradients with respect to outcomes that the fine-tune's own probabilities draw (true
Fisher, not the empirical one: Kunstner et al., arXiv:1905.12558). `activation` knows nothing of what comes after the
layer: it is the mean square of what the weights are multiplied with, all outputs being worth the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch

from skillpack.errors import NotFiniteError
from skillpack.live.precision import weight_gradients
from skillpack.live.predictions import predict
from skillpack.progress import Progress, Stage, silent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skillpack.live.batches import Batch

Metric = Literal["identity", "activation", "fisher"]
"""`identity`: all tensors are worth the same, and no texts are needed."""


def sensitivities(
    metric: Metric, model: torch.nn.Module, batches: Sequence[Batch], *, seed: int = 0, progress: Progress = silent
) -> dict[str, float]:
    """Mean sensitivity of the weights of each tensor: twice the nats per prediction that a unit of squared error costs.

    Of `activation`, and of tensors that it says nothing about, the unit is another, and only ratios mean something.

    Args:
        metric: which.
        model: the fine-tune, as `open_model` gives it.
        batches: texts.
        seed: of the outcomes that are drawn.
        progress: called during the work.

    Returns:
        Name of the tensor -> sensitivity, for all that have one.

    Raises:
        NotFiniteError: the model predicts NaN or infinity.
    """
    stage = Stage(progress, "weighing tensors", sum(batch.nbytes for batch in batches))
    predictions = max(1, sum(len(batch.sample) for batch in batches))
    if metric == "identity":
        return {}
    found = _fisher(model, batches, seed, stage) if metric == "fisher" else _activation(model, batches, stage)
    return {name: value / predictions for name, value in found.items() if value > 0}


def _fisher(model: torch.nn.Module, batches: Sequence[Batch], seed: int, stage: Stage) -> dict[str, float]:
    """Sums over predictions.

    Their outcomes are drawn independently, so that the gradient of a whole batch has, on average, the squared norm that
    those of its predictions have together.
    """
    sums: dict[str, float] = {}

    def add(name: str, gradient: torch.Tensor) -> None:
        square = float(gradient.square().sum(dtype=torch.float64)) / gradient.numel()
        sums[name] = sums.get(name, 0.0) + square

    generator = torch.Generator().manual_seed(seed)
    for batch in batches:
        with weight_gradients(model, add):
            logits = predict(model, batch)
            likely = logits.detach().softmax(-1)
            if not torch.isfinite(likely).all():
                raise NotFiniteError("the fine-tune predicts NaN or infinity", hint="Check that it works at all.")
            drawn = torch.multinomial(likely, 1, generator=generator)
            # The gradient of the logarithm of the probability of what was drawn.
            torch.autograd.backward(logits, torch.zeros_like(likely).scatter_(1, drawn, 1.0) - likely)
        stage.advance(batch.nbytes)
    return sums


def _activation(model: torch.nn.Module, batches: Sequence[Batch], stage: Stage) -> dict[str, float]:
    """Sums over predictions of the mean square of the inputs of all layers with a matrix, at all positions."""
    sums: dict[str, float] = {}
    real: list[torch.Tensor] = []

    def watch(name: str) -> torch.utils.hooks.RemovableHandle:
        def add(_: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            squares = inputs[0].float().square().mean(-1)
            # Experts and heads are fed some positions only, none of them padding.
            weights = real[0] if squares.shape == real[0].shape else torch.ones_like(squares)
            mean = float((squares * weights).sum() / weights.sum().clamp_min(1))
            sums[name] = sums.get(name, 0.0) + mean * len(batch.sample)

        return modules[name.rpartition(".")[0]].register_forward_pre_hook(add)

    modules = dict(model.named_modules())
    linear = [f"{name}.weight" for name, module in modules.items() if isinstance(module, torch.nn.Linear)]
    handles = [watch(name) for name in linear]
    try:
        for batch in batches:
            real[:] = [batch.attention_mask.float()]
            with torch.no_grad():
                predict(model, batch)
            stage.advance(batch.nbytes)
    finally:
        for handle in handles:
            handle.remove()
    return sums
