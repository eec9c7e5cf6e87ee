"""Sets of models, one for each task: SkillPack's own, GraftLLM as published, and LoRA adapters in bf16.

With tasks named each prompt is answered by its task's model. With the router it is answered by the model that is picked
from the base's features, or by the base: which one does not depend on how the models are stored, so that all sets share
the same decisions. The router knows the tasks by the prompts of their calibration texts, which are worded as the
held-out ones are, and once more by those of its training texts: facts about cities are trained with other words.
"""

from __future__ import annotations

import filecmp
import shutil
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch

import skillpack
from benchmarks.baselines.graftllm import GraftLLM
from benchmarks.baselines.moments import input_moments
from benchmarks.baselines.protocol import apply, replace_tensors
from benchmarks.comparing.pairs import renamed
from benchmarks.continual_baselines.lora import ADAPTER, SequentialLora, open_adapter, train_adapter
from benchmarks.continual_baselines.protocol import Opened, Result
from skillpack.learning.learner import ContinualLearner
from skillpack.learning.routing import asked
from skillpack.learning.scores import WRONG, score
from skillpack.live.batches import encode
from skillpack.live.models import open_model, open_tokenizer
from skillpack.live.predictions import predict

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from benchmarks.continual_baselines.protocol import Cache, Row
    from benchmarks.continual_tasks import Course, Learned

BASE = -1
"""Stands for the base where a prompt could go to a task's model."""

_TOKENS = 512
_EXAMPLES = 64


@dataclass(frozen=True)
class Ours:
    """One skill for each task, made by `skillpack.ContinualLearner` from the experts; see `Approach`.

    Attributes:
        share: bytes of a skill in relation to the base.
        calibrate: texts of each task that its skill is packed with.
    """

    name: ClassVar[str] = "SkillPack"
    share: float = 0.02
    routes: Routes | None = None
    calibrate: int = 0

    @property
    def settings(self) -> dict[str, Any]:
        """See `Approach`."""
        return {"share": self.share, "calibrate": self.calibrate}

    def learn(self, course: Course, room: Path, cache: Cache) -> Result:
        """See `Approach`."""
        learner = learned_by_us(course, room, self.share, self.calibrate)
        sizes = [task.size for task in learner.report().tasks]

        def model_of(place: int) -> Any:
            return open_model(_installed(learner.report().tasks[place].name, course, room))

        result = _result(course, cache, model_of, sizes, self.routes)
        for one in course.tasks:
            _check_same(one.task.name, course, room)
        return result


@dataclass(frozen=True)
class Published:
    """GraftLLM as published, at the settings of its paper, calibrated; see `Approach`."""

    name: ClassVar[str] = "GraftLLM as published"
    routes: Routes | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """See `Approach`."""
        return GraftLLM().settings()

    def learn(self, course: Course, room: Path, cache: Cache) -> Result:
        """See `Approach`."""
        method = GraftLLM()

        def base_of(place: int) -> Path:
            # A classifier's tensors begin with the encoder's name, and the method knows them by their names.
            folder = room / f"{course.tasks[place].task.name}-base"
            if not course.classes:
                return course.base
            return folder if folder.is_dir() else renamed(course.base, course.tasks[place].expert, folder)

        def saved(place: int) -> int:
            folder = room / course.tasks[place].task.name
            shutil.rmtree(folder, ignore_errors=True)
            with torch.no_grad():
                moments = _moments(course.tasks[place])
                return method.save(base_of(place), course.tasks[place].expert, folder, moments=moments)

        sizes = [
            cache.get(f"bytes-of-{one.task.name}", lambda place=place: saved(place))  # type: ignore[misc]
            for place, one in enumerate(course.tasks)
        ]

        def model_of(place: int) -> Any:
            learned = course.tasks[place]
            tensors = method.load(room / learned.task.name, base_of(place))
            if not course.classes:
                return apply(course.base, tensors)
            # The base has no head. All that the fine-tune changes is replaced, and the rest is the base's.
            model = open_model(learned.expert)
            replace_tensors(model, tensors)
            return model

        return _result(course, cache, model_of, sizes, self.routes)


@dataclass(frozen=True)
class LoraSet:
    """A LoRA adapter in bf16 for each task, trained from the base; see `Approach`.

    Attributes:
        rank: of the adapters.
        share: of the experts' steps.
    """

    name: ClassVar[str] = "LoRA set, bf16"
    rank: int = 16
    share: float = 1.0
    routes: Routes | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """See `Approach`."""
        return {key: value for key, value in asdict(self).items() if key != "routes"}

    def learn(self, course: Course, room: Path, cache: Cache) -> Result:
        """See `Approach`."""
        how = SequentialLora(self.share, rank=self.rank)
        sizes = []
        for one in course.tasks:
            folder, whole = room / one.task.name, room / f"{one.task.name}-fp32"
            if not folder.is_dir():
                if not whole.is_dir():
                    train_adapter(how, course, one, whole, None)
                _to_bf16(whole / ADAPTER)
                whole.rename(folder)
            sizes.append((folder / ADAPTER).stat().st_size)

        def model_of(place: int) -> Any:
            return open_adapter(room / course.tasks[place].task.name, course.base)

        return _result(course, cache, model_of, sizes, self.routes)


class Routes:
    """Where the router sends each held-out prompt after each step.

    Args:
        course: the tasks.
        room: folder of our own approach, in whose store the skills are.
        cache: for the decisions.
        share: of our skills.
        method: of `skillpack.open_router`.
        shown: what examples are: prompts of the calibration texts, which are worded "as-asked", or "as-trained".
    """

    def __init__(
        self,
        course: Course,
        room: Path,
        cache: Cache,
        share: float,
        method: str = "prototype",
        *,
        shown: Literal["as-asked", "as-trained"] = "as-asked",
    ) -> None:
        self._course, self._room, self._cache, self._share, self._method = course, room, cache, share, method
        self._shown: Literal["as-asked", "as-trained"] = shown

    def as_trained(self) -> Routes:
        """The same where the router is shown prompts of the training texts."""
        return Routes(self._course, self._room, self._cache, self._share, self._method, shown="as-trained")

    def of(self, step: int, place: int) -> list[int]:
        """For each held-out prompt of a task the place of the task whose model it goes to, or `BASE`."""
        found = self._cache.get(f"routes-{self._method}-{self._shown}", self._decide)
        return list(found[f"{step}-{place}"])

    def _decide(self) -> dict[str, list[int]]:
        """All decisions; skills become known to the router one after another, as they are learned."""
        course = self._course
        learned_by_us(course, self._room, self._share)
        # Without attachments, so that the examples of this run are all that a router knows.
        store = self._room / f"routes-{self._method}"
        shutil.rmtree(store, ignore_errors=True)
        shutil.copytree(self._room / "store", store, ignore=shutil.ignore_patterns("referrers"))
        model, tokenizer = open_model(course.base), open_tokenizer(course.base)
        # A base that is an encoder answers nothing, so that there is nothing to leave to it.
        least = -1e9 if course.classes else "auto"
        router = skillpack.open_router(model, tokenizer, (), method=self._method, threshold=least, store=store)
        places = {one.task.name: place for place, one in enumerate(course.tasks)}
        found = {}
        for step, learned in enumerate(course.tasks):
            texts = learned.calibration if self._shown == "as-asked" else learned.task.training
            prompts = [asked(sample) for sample in texts[:_EXAMPLES]]
            skillpack.add_examples(
                learned.task.name,
                prompts,
                model,
                tokenizer=tokenizer,
                refined=self._method == "self-refined",
                store=store,
            )
            router.add(learned.task.name)
            for place, other in enumerate(course.tasks[: step + 2]):
                routes = router.route([asked(sample) for sample in other.task.measured])
                found[f"{step}-{place}"] = [
                    places[route.choices[0].name] if route.choices else BASE for route in routes
                ]
        return found


def learned_by_us(course: Course, room: Path, share: float, calibrate: int = 0) -> ContinualLearner:
    """Our learner after the whole course; what was finished before is not done again."""
    experts = {one.task.name: one for one in course.tasks}
    learner = ContinualLearner(
        course.base,
        room / "out",
        train=lambda _, task: experts[task.name].expert,
        share=share,
        calibrate=calibrate,
        store=room / "store",
    )
    for one in course.tasks:
        learner.learn(one.task)
    return learner


def _result(
    course: Course, cache: Cache, model_of: Callable[[int], Any], sizes: list[int], routes: Routes | None
) -> Result:
    """Scores of a set, from outcomes that are measured once for each pair of a model and a task that occurs."""
    base = Opened(lambda: open_model(course.base))
    models = {place: Opened(lambda place=place: model_of(place)) for place in range(len(course.tasks))}  # type: ignore[misc]

    def outcomes(place: int, one: Learned) -> list[Any]:
        if course.classes and (place == BASE or course.tasks[place] is not one):
            return [WRONG] * len(one.task.measured)
        name, model = ("base", base) if place == BASE else (course.tasks[place].task.name, models[place])
        return cache.outcomes(name, one, model, course.base)

    named: list[Row] = []
    routed: list[Row] = []
    for step in range(len(course.tasks)):
        named.append([])
        routed.append([])
        for place, one in enumerate(course.tasks):
            own = outcomes(place if place <= step else BASE, one)
            named[-1].append(score(own, one.task.measure) if place <= step or not course.classes else None)
            if routes is not None and place <= step + 1 and (place <= step or not course.classes):
                targets = routes.of(step, place)
                chosen = [outcomes(target, one)[at] for at, target in enumerate(targets)]
                routed[-1].append(score(chosen, one.task.measure))
            else:
                routed[-1].append(None)
        models = {place: Opened(lambda place=place: model_of(place)) for place in models}  # type: ignore[misc]
    totals = [sum(sizes[: step + 1]) for step in range(len(sizes))]
    return Result(named, totals, routed if routes is not None else None)


def _installed(name: str, course: Course, room: Path) -> Path:
    """The model with a skill as it is measured, once for all rows of a matrix."""
    folder = room / "installed" / name
    if not folder.is_dir():
        skillpack.install(name, course.base, output=folder, store=room / "store")
    return folder


def _check_same(name: str, course: Course, room: Path) -> None:
    """What was measured has to be what the store gives after the last task, or else the last row is another one."""
    again = room / "again"
    shutil.rmtree(again, ignore_errors=True)
    skillpack.install(name, course.base, output=again, store=room / "store")
    for file in sorted(again.glob("*.safetensors")):
        if not filecmp.cmp(file, _installed(name, course, room) / file.name, shallow=False):
            raise RuntimeError(f"{name} is another model after the last task: {file.name} differs")
    shutil.rmtree(again)


def _moments(learned: Learned) -> dict[str, torch.Tensor]:
    model: Any = open_model(learned.expert)
    tokenizer = open_tokenizer(learned.expert)
    classes = learned.task.measure == "label"
    batches = encode(learned.calibration, tokenizer, _TOKENS, 2048, whole=classes)

    def run() -> None:
        for batch in batches:
            predict(model, batch)

    return input_moments(model, run)


def _to_bf16(file: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = {name: value.to(torch.bfloat16) for name, value in load_file(file).items()}
    save_file(tensors, file, {"format": "pt"})
