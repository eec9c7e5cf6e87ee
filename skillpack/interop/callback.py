"""A callback for transformers' Trainer, and with it TRL's, that packs what was learned into the store."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from skillpack.checkpoint import open_checkpoint
from skillpack.errors import ReportedError, SkillPackError, UsageError
from skillpack.interop.trained import check_live_base, live_tensors, trained_checkpoint, write_settings
from skillpack_store import check_skill_name

if TYPE_CHECKING:
    import torch

    from skillpack.packing import PackReport
    from skillpack.summaries import StoreLike

_log = logging.getLogger("skillpack")


class SkillPackCallback(TrainerCallback):
    """Packs the model at the end of training, or every N steps, as versions of one skill.

    Weights are read from memory, cast to the base's dtype; no second copy of the model is written. Of a PEFT model the
    adapter is packed. Only the main process packs. If a pack fails in the middle of the training, that is logged and
    the training goes on; if the last one fails, the model is saved below the output folder first and then
    `SkillPackError` is raised, so that nothing that was learned is lost.

    Attributes:
        reports: of the packs so far.
        problem: what went wrong with the latest pack; None if nothing did.

    Example:
        >>> callback = SkillPackCallback("org/base", "math", size=5_000_000)  # doctest: +SKIP
        >>> Trainer(model, args, train_dataset=data, callbacks=[callback]).train()  # doctest: +SKIP
    """

    def __init__(
        self,
        base: str | Path,
        name: str,
        *,
        every: int | None = None,
        store: StoreLike = None,
        branch: str = "main",
        message: str = "",
        **goal: Any,
    ) -> None:
        """Prepare to pack.

        Args:
            base: model folder or Hub id that the training starts from. Whether the model has its weights is checked
                when the training begins, unless it is resumed.
            name: of the skill.
            every: pack every so many steps too; by default at the end only.
            store: where to; by default the user's own store.
            branch: branch of the library.
            message: why, for the history; the step is added.
            goal: `exact`, `size`, `quality`, `author`, `license`, `workers` and `device`, as `skillpack.pack` takes
                them.

        Raises:
            UsageError: the name or the number of steps is impossible, or texts are given, which need a saved model.
            CheckpointError: the base cannot be read.
        """
        wrong = goal.keys() - {"exact", "size", "quality", "author", "license", "workers", "device"}
        if wrong:
            raise UsageError(
                f"a model in training cannot be packed with {', '.join(sorted(wrong))}",
                hint="Save it and pack the folder with skillpack.pack.",
            )
        if every is not None and every < 1:
            raise UsageError(f"every {every} steps is never", hint="Give 100, for example, or leave it out.")
        self._base, self._name, self._every = base, check_skill_name(name), every
        self._message = message
        self._options: dict[str, Any] = {"store": store, "branch": branch, **goal}
        self._checkpoint = open_checkpoint(base)
        self._packed_at: int | None = None
        self.reports: list[PackReport] = []
        self.problem: ReportedError | Exception | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Check that the model is the base, before any time is spent.

        Raises:
            WrongBaseError: it is another one.
            UnsupportedCheckpointError: its weights are divided among processes.
        """
        live_tensors(kwargs["model"], self._checkpoint)
        if state.global_step:
            _log.info("training is resumed at step %d: its base is not compared again", state.global_step)
        elif quantised := check_live_base(kwargs["model"], self._checkpoint):
            _log.warning("%d weights are quantised, so they were not compared with the base", len(quantised))

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Pack if it is time; a problem is logged."""
        if self._every and state.global_step % self._every == 0 and state.global_step < state.max_steps:
            self._try(state, **kwargs)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
        """Pack what was learned.

        Raises:
            SkillPackError: it could not be packed; the message says where the model was saved.
        """
        if not state.is_world_process_zero or (self._packed_at == state.global_step and self.problem is None):
            return
        self._try(state, **kwargs)
        if self.problem is not None:
            folder = Path(args.output_dir) / "not-packed"
            kwargs["model"].save_pretrained(folder)
            if kwargs.get("processing_class") is not None:
                kwargs["processing_class"].save_pretrained(folder)
            raise SkillPackError(
                f"The trained model could not be packed: {self.problem}. It is saved in {folder}",
                hint=f"Pack it from there: skillpack pack {self._base} {folder} --name {self._name}",
            ) from self.problem

    def _try(self, state: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        self.problem = None
        try:
            report = self._pack(state.global_step, kwargs["model"], kwargs.get("processing_class"))
        except Exception as error:  # noqa: BLE001 - hours of training are worth more than any reason to stop
            self.problem = error
            _log.error("step %d could not be packed as %s: %s", state.global_step, self._name, error)
            return
        self.reports.append(report)
        self._packed_at = state.global_step
        _log.info("packed step %d as %s@%s, %d bytes", state.global_step, report.name, report.version, report.size)

    def _pack(self, step: int, model: torch.nn.Module, processing_class: Any) -> PackReport:
        from skillpack.live.models import is_converted
        from skillpack.packing import pack

        note = f"{self._message or 'Trained'}: step {step}"
        model = getattr(model, "_orig_mod", model)
        with tempfile.TemporaryDirectory(prefix="skillpack-") as room:
            folder = Path(room)
            tuned: Any = folder
            if hasattr(model, "peft_config"):
                model.save_pretrained(folder)  # type: ignore[operator]
                if processing_class is not None:
                    processing_class.save_pretrained(folder)
            elif is_converted(model):
                # What transformers stores is computed from the live weights, which only it knows how to do.
                model.save_pretrained(folder)  # type: ignore[operator]
                write_settings(model, processing_class, self._checkpoint, folder)
            else:
                write_settings(model, processing_class, self._checkpoint, folder)
                tuned = trained_checkpoint(model, self._checkpoint, folder)
            return pack(self._base, tuned, self._name, message=note, **self._options)
