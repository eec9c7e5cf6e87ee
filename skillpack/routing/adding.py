"""Attaching examples to skills: from texts to features, with a base that is opened or at hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from skillpack.errors import DataError, UsageError
from skillpack.grafting.wrappers import unwrap
from skillpack.live.models import open_model, open_tokenizer
from skillpack.routing.applying import HostSkills, Named
from skillpack.routing.examples import MOST_EXAMPLES, attach_examples, find_examples
from skillpack.routing.features import Base
from skillpack.routing.space import FEWEST
from skillpack.signing.checking import require_trusted
from skillpack.skill import open_skill
from skillpack.summaries import open_existing
from skillpack.texts import read_samples

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from skillpack.routing.protocol import Tokens
    from skillpack.skill import Skill
    from skillpack.summaries import StoreLike
    from skillpack.texts import Sample
    from skillpack_store import Descriptor, Repository

_FROM_CALIBRATION: Final = 64
"""Texts of a calibration that become examples; each costs a pass of the base."""


@dataclass(frozen=True)
class ExamplesReport:
    """Examples that were attached to a skill.

    Attributes:
        name: of the skill.
        digest: of the skill, which is the same as before.
        added: how many were given.
        total: how many it has now for this base, each counted once.
        attachment: digest of the attachment that holds the new ones.
    """

    name: str
    digest: str
    added: int
    total: int
    attachment: str


def add_examples(
    address: str,
    examples: str | Path | Sequence[str | Sample],
    base: str | Path | torch.nn.Module,
    *,
    tokenizer: Any = None,
    refined: bool = True,
    store: StoreLike = None,
    branch: str = "main",
) -> ExamplesReport:
    """Attach examples of what a skill is for, so that a router can choose it.

    What is kept are features of the base, a vector for each prompt, and not the texts. The skill stays as it is; the
    examples go wherever it goes.

    Args:
        address: of the skill.
        examples: prompts; or where to read them, see `skillpack.texts.read_samples`. Of chats with an answer, what
            comes before it counts. Some dozen that differ as much as real ones do are enough.
        base: that the skill was packed from: a model folder, a Hub id, or a live model, with its tokenizer.
        tokenizer: of a live model.
        refined: keep features under the skill too, which the method "self-refined" needs; takes as long again.
        store: where the skill is.
        branch: of the library.

    Raises:
        NotFoundError: there is no such skill.
        DataError: there are too few examples or too many, or they cannot be read.
        WrongBaseError: the skill was packed from another base (only if `refined`).
        UsageError: a live model without its tokenizer.

    Example:
        >>> add_examples("math", ["What is 2 + 2?", "How much is 3 times 4?"], "org/base")  # doctest: +SKIP
    """
    repository = open_existing(store)
    found = repository.resolve(address, branch)
    require_trusted(repository, found.descriptor.digest, found.name)
    prompts = read_prompts(examples)
    opened = open_base(base, tokenizer, store, branch)
    skill = open_skill(repository, found.descriptor.digest, found.name)
    attached = attach_prompts(repository, found.descriptor, skill, opened, prompts, refined=refined)
    total = find_examples(repository, skill.digest, opened)
    return ExamplesReport(skill.name, skill.digest, len(prompts), 0 if total is None else len(total), attached.digest)


def read_prompts(examples: str | Path | Sequence[str | Sample]) -> list[str | Sample]:
    """Examples as they were given, or read from where they are.

    Raises:
        DataError: there are too few, too many, or they cannot be read.
    """
    prompts: list[str | Sample] = []
    prompts += read_samples(examples) if isinstance(examples, str | Path) else examples
    if not FEWEST <= len(prompts) <= MOST_EXAMPLES:
        raise DataError(
            f"{len(prompts)} examples are given", hint=f"Give {FEWEST} to {MOST_EXAMPLES}; 30 to 60 are a good number."
        )
    return prompts


def some_prompts(texts: str | Path | Sequence[Sample]) -> list[str | Sample]:
    """Those of the texts of a calibration that can be examples: prompts of chats, as many as count; none if few are."""
    samples = read_samples(texts) if isinstance(texts, str | Path) else texts
    prompts: list[str | Sample] = []
    prompts += [sample for sample in samples if sample.messages][:_FROM_CALIBRATION]
    return prompts if len(prompts) >= FEWEST else []


def open_base(base: str | Path | torch.nn.Module, tokenizer: Any, store: StoreLike, branch: str) -> Base:
    """A base as routers see it, opened if it is not live.

    Raises:
        CheckpointError: it cannot be opened.
        UsageError: it is live and comes without its tokenizer.
    """
    model = open_model(base) if isinstance(base, str | Path) else base
    if tokenizer is None:
        if not isinstance(base, str | Path):
            raise UsageError("A live model needs its tokenizer", hint="Give tokenizer=…, or the model's folder.")
        tokenizer = open_tokenizer(base)
    return Base(model, tokenizer, HostSkills(unwrap(model), store, branch))


def attach_prompts(
    repository: Repository,
    descriptor: Descriptor,
    skill: Skill,
    base: Base,
    prompts: Sequence[str | Sample],
    *,
    refined: bool,
) -> Descriptor:
    """Compute features of prompts and attach them; see `add_examples`."""
    tokens = [base.read(prompt) for prompt in prompts]
    features = base.features(tokens)
    return attach_examples(
        repository, descriptor, base, features, refined_features(base, skill, tokens) if refined else None
    )


def refined_features(base: Base, skill: Skill, prompts: Sequence[Tokens]) -> torch.Tensor:
    """Features under a skill, which is loaded for this alone.

    Raises:
        WrongBaseError: it was packed from another base.
    """
    named = Named(skill.name, skill.digest)
    base.applied.load(skill)
    try:
        return base.features_under(prompts, [named] * len(prompts))
    finally:
        base.applied.unload(named)
