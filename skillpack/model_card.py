"""The model card of a skill: a README.md that the Hugging Face Hub understands, attached to the skill."""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from skillpack.errors import StoreError

if TYPE_CHECKING:
    from skillpack.checkpoint import Checkpoint
    from skillpack.manifest import Manifest
    from skillpack_store import Repository

CARD_TYPE: Final = "application/vnd.skillpack.card.v1+markdown"
UNKNOWN_LICENSE: Final = "unknown"
_MARKDOWN: Final = "text/markdown"
_TITLE: Final = "README.md"
CARD_LIMIT: Final = 1 << 20
"""Most bytes of a card that are read."""
_LICENSE: Final = re.compile(r"^license:\s*['\"]?([A-Za-z0-9.+-]+)", re.MULTILINE)


@dataclass(frozen=True)
class CardFacts:
    """What the manifest does not say.

    Attributes:
        name: of the skill.
        base_model: hub id or name of the base.
        license: identifier as on the Hub.
        size: bytes of the skill.
        tuned_size: bytes of the fine-tune's tensors.
        notes: where else it comes from, a sentence each.
    """

    name: str
    base_model: str
    license: str
    size: int
    tuned_size: int
    notes: tuple[str, ...] = ()


def write_card(facts: CardFacts, manifest: Manifest) -> str:
    """Markdown with the Hub's YAML header (huggingface.co/docs/hub/model-cards)."""
    codecs = sorted({part.codec for entry in manifest.tensors for part in entry.parts})
    return "\n".join(
        [
            "---",
            f"base_model: {_quoted(facts.base_model)}",
            "library_name: skillpack",
            f"license: {_quoted(facts.license)}",
            "tags:",
            "- skillpack",
            "- delta-compression",
            "---",
            "",
            f"# {facts.name}",
            "",
            (
                f"A skill for `{facts.base_model}`: {_what(manifest)}, in {facts.size:,} bytes"
                f" ({facts.size / max(1, facts.tuned_size):.2%} of {_whose(manifest)} tensors)."
            ),
            "",
            "```",
            f"skillpack install {facts.name} ./model",
            f"skillpack remove {facts.name} ./model",
            "```",
            "",
            f"* changes {len(manifest.tensors)} tensors and {len(manifest.files)} files",
            f"* coded with {', '.join(codecs)}",
            f"* base: `{manifest.base_fingerprint}`",
            *([f"* fine-tune: `{manifest.tuned_fingerprint}`"] if manifest.recipe is None else []),
            *(f"* {note}" for note in facts.notes),
            "",
        ]
    )


def _what(manifest: Manifest) -> str:
    return "the difference that a fine-tune made" if manifest.recipe is None else "what several skills make together"


def _whose(manifest: Manifest) -> str:
    return "the fine-tune's" if manifest.recipe is None else "the changed"


def _quoted(text: str) -> str:
    """Text as YAML reads it back, whatever is in it: JSON strings are YAML."""
    return json.dumps(text, ensure_ascii=False)


def card_files(card: str) -> list[tuple[bytes, str, str]]:
    """A card as the file to attach."""
    return [(card.encode(), _MARKDOWN, _TITLE)]


def read_card(repository: Repository, digest: str) -> str:
    """The newest card of a skill that can be read; empty if it has none.

    Anybody who can write to the store can attach a card, so a damaged one must not keep the skill from being shown.
    """
    for referrer in reversed(repository.referrers(digest)):
        if referrer.artifact_type == CARD_TYPE:
            with contextlib.suppress(StoreError, UnicodeDecodeError):
                for file in repository.attachment(referrer.digest).files[:1]:
                    return repository.blobs.read(file.digest, limit=CARD_LIMIT).decode()
    return ""


def base_name(base: Checkpoint) -> str:
    """What to call the base in a card: its hub id, or the name of its folder, never a path of this machine."""
    path = Path(base.origin).expanduser()
    return path.resolve().name if path.exists() else base.origin.partition("@")[0]


def card_license(card: str) -> str:
    """The license that a model card names; `unknown` without one."""
    found = _LICENSE.search("".join(card.split("---")[1:2]))
    return found.group(1) if found else UNKNOWN_LICENSE


def base_license(base: Checkpoint) -> str:
    """The license that the base's own model card names; `unknown` without one."""
    card = None if base.folder is None else base.folder / "README.md"
    if card is None or not card.is_file():
        return UNKNOWN_LICENSE
    return card_license(card.read_text("utf-8", errors="replace"))
