"""The JSON that `compose` prints, what its keys mean, and how a recipe is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from skillpack.composing.report import ComposeReport

RECIPE_KEYS: Final[Mapping[str, str]] = {
    "recipe.method": "how skills became one; null for a skill that was packed",
    "recipe.options[].option": "an option of the method; all are there",
    "recipe.options[].value": "what it was",
    "recipe.parts[].name": "what a part was called",
    "recipe.parts[].digest": "its identity",
    "recipe.parts[].weight": "factor of its change",
    "recipe.task": "name of the part that is given back, or null",
    "recipe.size": "bytes that were asked for, or null",
    "recipe.weights[].tensor": "a tensor of the base for which parts have weights of their own",
    "recipe.weights[].weights[]": "these, in the order of the parts",
    "recipe.learned[].key": "what is known of how weights were learned",
    "recipe.learned[].value": "likewise",
}

COMPOSE_KEYS: Final[Mapping[str, Mapping[str, str]]] = {
    "compose": {
        "name": "name of the composed skill",
        "version": "its number in the history of the branch; null after a dry run",
        "digest": "its identity; empty after a dry run",
        "size": "bytes on disk of all that the digest covers",
        **RECIPE_KEYS,
        "tensors": "how many tensors it changes",
        "summed": "how many of them keep the streams of the parts",
        "recoded": "how many were coded anew",
        "error": "largest error of these, relative to the composed change (Frobenius norms)",
        "files[]": "relative paths of the files that it changes",
        "resumed": "how many tensors an interrupted run had worked on",
        "expected": "with --again: the digest that the library has; else null",
        "same": "with --again: whether the same came out; else null",
        "dry_run": "nothing was stored",
    },
}
"""As `skillpack.cli.documents.KEYS`."""


def compose_document(report: ComposeReport, *, dry_run: bool) -> dict[str, Any]:
    """What `compose` prints."""
    return {
        "name": report.name,
        "version": report.version,
        "digest": report.digest,
        "size": report.size,
        "recipe": recipe_document(report.recipe.to_json()),
        "tensors": len(report.manifest.tensors),
        "summed": report.summed,
        "recoded": report.recoded,
        "error": report.error,
        "files": [file.path for file in report.manifest.files],
        "resumed": report.resumed,
        "expected": report.expected,
        "same": report.same,
        "dry_run": dry_run,
    }


def recipe_document(recipe: Mapping[str, Any] | None) -> dict[str, Any]:
    """A recipe with the same keys whatever was made, and nothing in it for a skill that was packed."""
    found = recipe or {}
    return {
        "method": found.get("method"),
        "options": [{"option": key, "value": value} for key, value in found.get("options", {}).items()],
        "parts": list(found.get("parts", ())),
        "task": found.get("task"),
        "size": found.get("size"),
        "weights": [{"tensor": key, "weights": value} for key, value in found.get("weights", {}).items()],
        "learned": [{"key": key, "value": value} for key, value in found.get("learned", {}).items()],
    }


def recipe_lines(recipe: Mapping[str, Any]) -> Iterator[str]:
    """How `show` prints a recipe.

    Raises:
        DamagedSkillError: it is none.
    """
    from skillpack.composing.recipe import Recipe

    found = Recipe.from_json(recipe)
    options = ", ".join(f"{key}={value}" for key, value in found.options.items())
    task = "" if found.task is None else f", giving {found.task} back"
    size = "" if found.size is None else f", in at most {found.size:,} bytes"
    yield f"composed by {found.method}{f' ({options})' if options else ''}{task}{size}:"
    for part in found.parts:
        yield f"  {part.weight:g} of {part.name}, {part.digest}"
    if found.weights:
        yield f"  with weights of their own for {len(found.weights)} tensors"
