"""Many skills resident beside a model that is never written to, and which of them apply."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from skillpack.errors import ConflictError, NotFoundError, UsageError
from skillpack.grafting.base import LiveBase
from skillpack.grafting.overlay.blends import Blends
from skillpack.grafting.overlay.changes import blend, blend_bytes, folded, prepare
from skillpack.grafting.overlay.layer import Layer, Uniform
from skillpack.grafting.overlay.parts import Factors
from skillpack.grafting.overlay.rowwise import RowWise, Spread, takes_stacks
from skillpack.grafting.overlay.uses import check_called, rows_reason, use_of
from skillpack.grafting.wrappers import unwrap
from skillpack.summing import check_weight

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    import torch

    from skillpack.grafting.overlay.changes import Change, Prepared
    from skillpack.grafting.overlay.layer import Action
    from skillpack.grafting.overlay.rowwise import Choice
    from skillpack.grafting.places import Owner, Place
    from skillpack.skill import Skill

_CHOICES: Final = 256
_BATCHES: Final = 32
_FOLDED: Final = 4
"""A choice may fold factors in one part in so many of the memory for blended weights."""

Actions = dict[int, "Action"]
"""What layers do, by the id of their module; the others do what the base does."""


class Overlay:
    """Skills beside the weights of a live model, applied in its forward pass.

    Calls that change what applies must not run while a forward pass does.

    Args:
        model: the live model.
        places: where its tensors are, see `skillpack.grafting.places.find_places`.
        base: the same as a base, if it was already checked against skills.
        kept_bytes: memory for weights that are blended for a choice of skills, see `Blends`; by default four thirds
            of the model's own.
        fold: factors are blended with their matrix where one choice serves all rows, those first that cost most of
            its own work, in a quarter of `kept_bytes`, so that four choices can alternate without computing any anew.
            That pays for choices that stay. Where they are many, weights would be computed again and again.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        places: Mapping[str, Place],
        base: LiveBase | None = None,
        kept_bytes: int | None = None,
        *,
        fold: bool = True,
    ) -> None:
        self._model = unwrap(model)
        self._base = base or LiveBase(places)
        self._fold = fold
        tensors = {id(place.tensor): place.tensor for place in places.values()}
        own = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        self._blends = Blends(own * _FOLDED // 3 if kept_bytes is None else kept_bytes)
        self._resident: dict[str, Prepared] = {}
        self._layers: dict[int, Layer] = {}
        self._selected: Choice = ()
        self._choices: OrderedDict[Choice, Actions] = OrderedDict()
        self._batches: OrderedDict[tuple[Choice, ...], Actions] = OrderedDict()

    @property
    def resident(self) -> tuple[str, ...]:
        """Digests of the skills that are loaded."""
        return tuple(self._resident)

    @property
    def selected(self) -> Choice:
        """What applies to all rows."""
        return self._selected

    def nbytes(self, digest: str | None = None) -> int:
        """Memory in bytes of a skill that is loaded; without one, of all of them and of blended weights."""
        if digest is not None:
            return self._known(digest).nbytes
        return self._blends.nbytes + sum(each.nbytes for each in self._resident.values())

    def load(self, skill: Skill) -> None:
        """Make a skill resident; everything is checked and decoded first, so that an error leaves nothing behind.

        Raises:
            see `prepare`.
        """
        if skill.digest not in self._resident:
            self.attach(self.prepare(skill))

    def prepare(self, skill: Skill) -> Prepared:
        """The slow half of `load`, which touches nothing and may run in another thread than forward passes.

        Raises:
            WrongBaseError: the model was not loaded from the base of the skill.
            ConflictError: the skill asks for what this model cannot take; says why.
            DamagedSkillError: the skill's content makes no sense.
        """
        prepared = prepare(skill, self._base)
        modules = dict(self._model.named_modules(remove_duplicate=False))
        names = {id(module): name for name, module in reversed(modules.items())}
        for change in prepared.changes.values():
            for module, _ in change.owners:
                check_called(names[id(module)], module, modules)
        return prepared

    def attach(self, prepared: Prepared) -> None:
        """The fast half of `load`."""
        if prepared.skill.digest in self._resident:
            return
        names = {id(module): name for name, module in self._model.named_modules()}
        made: list[Layer] = []
        try:
            for change in prepared.changes.values():
                for module, attribute in change.owners:
                    if id(module) in self._layers:
                        continue
                    layer = Layer(module, names[id(module)], use_of(module, attribute))
                    self._layers[id(module)] = layer
                    made.append(layer)
                    layer.attach()
            self._resident[prepared.skill.digest] = prepared
        except BaseException:
            for layer in made:
                layer.detach()
                del self._layers[id(layer.module)]
            raise

    def unload(self, digest: str) -> None:
        """Forget a skill. Modules that no other one touches are as they were found.

        Raises:
            NotFoundError: it is not loaded.
            UsageError: it applies.
        """
        self._known(digest)
        if any(digest == chosen for chosen, _ in self._selected):
            raise UsageError(f"Skill {digest} applies to the model", hint="Select others first.")
        del self._resident[digest]
        self._blends.drop(digest)
        for kept in (self._choices, self._batches):
            for key in [key for key in kept if digest in str(key)]:
                del kept[key]  # type: ignore[arg-type]
        changes = [change for each in self._resident.values() for change in each.changes.values()]
        needed = {id(module) for change in changes for module, _ in change.owners}
        for place in self._layers.keys() - needed:
            self._layers.pop(place).detach()
        for layer in self._layers.values():
            layer.forget()

    def select(self, choice: Choice) -> None:
        """Let these skills, and no others, apply to all rows.

        Args:
            choice: digest and weight of each; empty for the base alone.

        Raises:
            NotFoundError: one is not loaded.
            ConflictError: they do not go together, or not with these weights.
        """
        self._apply(self._actions(tuple(sorted(choice))))
        self._selected = tuple(sorted(choice))

    @contextmanager
    def rows(self, choices: Sequence[Choice]) -> Iterator[None]:
        """Within this, each row of a batch has its own skills, and what was selected does not count.

        Args:
            choices: one for each row of the batch; a batch with a multiple of so many has each row repeated.

        Raises:
            NotFoundError: a skill is not loaded.
            ConflictError: skills do not go together, or rows cannot be told apart where they differ.
        """
        actions = self._batch(tuple(tuple(sorted(choice)) for choice in choices))
        before = {place: layer.action for place, layer in self._layers.items()}
        try:
            self._apply(actions)
            yield
        finally:
            for place, layer in self._layers.items():
                layer.action = before.get(place)

    def _apply(self, actions: Actions) -> None:
        for place, layer in self._layers.items():
            layer.action = actions.get(place)

    def _actions(self, choice: Choice) -> Actions:
        """What a choice makes of each layer, for all rows."""
        if choice not in self._choices:
            self._choices[choice] = dict(self._made(choice, fold=self._fold))
        return _latest(self._choices, choice, _CHOICES)

    def _batch(self, choices: tuple[Choice, ...]) -> Actions:
        if not choices:
            raise UsageError("A batch has at least one row")
        if len(set(choices)) == 1:
            return self._actions(choices[0])
        if choices not in self._batches:
            self._batches[choices] = self._mixed(choices)
        return _latest(self._batches, choices, _BATCHES)

    def _mixed(self, choices: tuple[Choice, ...]) -> Actions:
        spread = Spread(choices)
        made = [self._made(choice, fold=False) for choice in spread.choices]
        actions: Actions = {}
        for place in dict.fromkeys(place for each in made for place in each):
            layer = self._layers[place]
            if reason := rows_reason(self._model, layer.path):
                raise ConflictError(
                    f"Skills cannot differ by row in this model: {reason}", hint="Run the rows of each skill apart."
                )
            each = [actions_of.get(place) for actions_of in made]
            names = sorted({name for uniform in each if uniform is not None for name in uniform.blends})
            actions[place] = RowWise(spread, each, stacked=bool(names) and takes_stacks(layer, names))
        self._check_nesting(actions)
        return actions

    def _check_nesting(self, actions: Actions) -> None:
        """Refuse what would be computed for the rows of one choice alone inside of what is."""
        paths = [self._layers[place].path for place in actions]
        for place, action in actions.items():
            outer = self._layers[place].path
            inner = [path for path in paths if path != outer and path.startswith(f"{outer}." if outer else "")]
            if inner and isinstance(action, RowWise) and action.is_apart:
                raise ConflictError(
                    f"Skills cannot differ by row in this model: {outer or 'the model'} has weights of its own and is "
                    f"run for the rows of each skill apart, with {inner[0]} in it",
                    hint="Run the rows of each skill apart.",
                )

    def _made(self, choice: Choice, *, fold: bool) -> dict[int, Uniform]:
        for digest, weight in choice:
            check_weight(self._known(digest).skill.name, weight)
        if len({digest for digest, _ in choice}) < len(choice):
            raise UsageError("A skill is chosen twice", hint="Name each skill once.")
        changes: dict[Owner, list[tuple[Change, float]]] = {}
        for digest, weight in choice:
            for owner, change in self._resident[digest].changes.items():
                changes.setdefault(owner, []).append((change, weight))
        foldable = self._foldable(changes) if fold else frozenset()
        made: dict[int, Uniform] = {}
        for owner, group in changes.items():
            self._add(made, group, fold=owner in foldable)
        return made

    def _foldable(self, changes: Mapping[Owner, Sequence[tuple[Change, float]]]) -> frozenset[Owner]:
        """Where blended tensors spare most work for their memory."""
        widths = {
            owner: sum(change.width for change, _ in group)
            for owner, group in changes.items()
            if all(isinstance(change.part, Factors) for change, _ in group)
        }
        left = self._blends.limit // _FOLDED
        found = set()
        for owner in sorted((owner for owner, width in widths.items() if width), key=lambda owner: -widths[owner]):
            size = blend_bytes(changes[owner][0][0])
            if size <= left:
                left -= size
                found.add(owner)
        return frozenset(found)

    def _add(self, made: dict[int, Uniform], group: list[tuple[Change, float]], *, fold: bool) -> None:
        """What some skills make of one tensor, for each module that holds it."""
        parts = [(change.part, weight) for change, weight in group if change.part is not None]
        first, weight = group[0]
        blended = None
        if len(parts) < len(group):
            lone = first.lone if len(group) == 1 and weight == 1 else None
            blended = lone or blend(group, self._base, self._blends)
        elif fold:
            blended = folded(group, self._base, self._blends)
        for module, attribute in first.owners:
            uniform = made.setdefault(id(module), Uniform())
            if blended is not None:
                uniform.blends[attribute] = blended
            else:
                uniform.added.extend(parts)

    def _known(self, digest: str) -> Prepared:
        if digest not in self._resident:
            raise NotFoundError(f"Skill {digest} is not loaded", hint="Load it first.")
        return self._resident[digest]


def _latest(kept: OrderedDict[Any, Actions], key: Any, limit: int) -> Actions:
    """What is kept, which is used now; the longest unused are given up."""
    kept.move_to_end(key)
    while len(kept) > limit:
        kept.popitem(last=False)
    return kept[key]
