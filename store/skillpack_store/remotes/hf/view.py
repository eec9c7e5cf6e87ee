"""What people see of a library on the Hub: a folder for each skill, and the card of the repository."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from huggingface_hub import ModelCard, ModelCardData

from skillpack_store.descriptors import DOCUMENT_LIMIT, Descriptor, digest_of
from skillpack_store.documents import INDEX, MANIFEST, Attachment, Commit, SkillManifest, parse_index
from skillpack_store.errors import NotFoundError, RemoteError
from skillpack_store.referrers import TITLE
from skillpack_store.remotes.hf.state import File, SkillView

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeVar

    T = TypeVar("T")
    Read = Callable[[Descriptor, int], bytes]

__all__ = ["CARD_LIMIT", "repository_card", "view_of"]

CARD_LIMIT = 1 << 20  # bytes
_CARD = "README.md"
_HUB_ID = re.compile(r"[A-Za-z0-9._-]{1,96}/[A-Za-z0-9._-]{1,96}")
_ENDINGS = {"json": ".json", "zstd": ".zst", "safetensors": ".safetensors", "markdown": ".md"}


def view_of(refs: Mapping[str, str], before: Mapping[str, SkillView], read: Read) -> dict[str, SkillView]:
    """Return what people shall see of the branch ``main``.

    Args:
        refs: All refs.
        before: What they see now; skills that did not change are taken from it.
        read: Gives the content of a document or card, verified, of at most so many bytes.
    """
    if "heads/main" not in refs:
        return {}
    commit = _document(read, Descriptor(refs["heads/main"], 0, INDEX), Commit.parse)
    view = {}
    for name, skill in commit.skills.items():
        attachments = refs.get(f"referrers/{skill.digest.replace(':', '-')}", "")
        found = before.get(name)
        if found is None or (found.digest, found.attachments) != (skill.digest, attachments):
            found = _skill_view(name, skill, attachments, read)
        view[name] = found
    return view


def repository_card(repository: str, view: Mapping[str, SkillView], *, facts: bool = True) -> bytes:
    """Return the ``README.md`` of a repository (https://huggingface.co/docs/hub/model-cards).

    Args:
        repository: ``org/name``.
        view: The skills.
        facts: Whether its header names base models and the license. The Hub refuses a card with one that it does not
            know.
    """
    bases = sorted({skill.base_model for skill in view.values() if facts and _HUB_ID.fullmatch(skill.base_model)})
    licenses = {skill.license.lower() for skill in view.values() if facts}
    header = ModelCardData(
        base_model=bases or None,
        base_model_relation="adapter" if bases else None,
        library_name="skillpack",
        license=licenses.pop() if len(licenses) == 1 and licenses != {""} else None,
        tags=["skillpack"],
    )
    rows = [
        f"| [{name}](skills/{name}) | {skill.base_model.replace('|', ' ') or '?'} | "
        f"{sum({file.digest: file.size for file in skill.files.values()}.values()):,} | `{skill.digest[:19]}` |"
        for name, skill in sorted(view.items())
    ]
    lines = [
        "---",
        header.to_yaml(),
        "---",
        "",
        f"# {repository}",
        "",
        "Skills: small, removable differences that fine-tunes made to their base models.",
        "",
        "```",
        f"skillpack clone hf://{repository}",
        "```",
        "",
        "| skill | base | bytes | digest |",
        "|---|---|---|---|",
        *rows,
        "",
        "Every file of a skill is in its folder under `skills`. `skillpack.json` gives their digests.",
        "",
    ]
    return "\n".join(lines).encode()


def _skill_view(name: str, skill: Descriptor, attachments: str, read: Read) -> SkillView:
    manifest = _document(read, skill, SkillManifest.parse)
    folder = f"skills/{name}"
    files = {
        f"{folder}/manifest.json": skill,
        f"{folder}/config{_ending(manifest.config.media_type, '')}": manifest.config,
    }
    width = len(str(len(manifest.layers)))
    for number, layer in enumerate(manifest.layers, 1):
        files[f"{folder}/layer-{number:0{width}}{_ending(layer.media_type, '.bin')}"] = layer
    card = _find_card(attachments, read) if attachments else None
    base_model = license_name = ""
    if card is not None:
        files[f"{folder}/{_CARD}"] = card
        base_model, license_name = _card_facts(read(card, CARD_LIMIT))
    shown = {path: File(blob.digest, blob.size) for path, blob in files.items()}
    return SkillView(skill.digest, attachments, base_model, license_name, shown)


def _find_card(attachments: str, read: Read) -> Descriptor | None:
    """Return the newest attached file that is called ``README.md``; None if there is none that is not too long."""
    for entry in reversed(_document(read, Descriptor(attachments, 0, INDEX), parse_index)):
        if entry.media_type == MANIFEST:
            for file in _document(read, entry, Attachment.parse).files:
                if file.annotations.get(TITLE) == _CARD and file.size <= CARD_LIMIT:
                    return file
    return None


def _card_facts(card: bytes) -> tuple[str, str]:
    """Return the base model and the license that the header of a card names, empty where it does not."""
    # A header with anchors could be a bomb, and needs none.
    text = card.decode("utf-8", "replace")
    header = re.match(r"---\r?\n(.*?)\r?\n---", text, re.DOTALL)
    if header is None or re.search(r"[&*!]", header[1]):
        return "", ""
    try:
        data = vars(ModelCard(text, ignore_metadata_errors=True).data)
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in {"yaml", "builtins", "huggingface_hub"}:
            raise
        return "", ""
    base, license_name = data.get("base_model"), data.get("license")
    return base if isinstance(base, str) else "", license_name if isinstance(license_name, str) else ""


def _ending(media_type: str, otherwise: str) -> str:
    """Return the ending of a file of this type.

    >>> _ending("application/vnd.skillpack.manifest.v1+json+zstd", "")
    '.json.zst'
    """
    _, *suffixes = media_type.split("+")
    if not suffixes:
        suffixes = [media_type.rpartition(".")[2]]
    return "".join(_ENDINGS.get(suffix, "") for suffix in suffixes) or otherwise


def _document(read: Read, blob: Descriptor, parse: Callable[[bytes], T]) -> T:
    data = read(blob, DOCUMENT_LIMIT)
    if digest_of(data) != blob.digest:
        raise RemoteError(f"The document {blob.digest} arrived with another digest.")
    try:
        return parse(data)
    except ValueError as error:
        raise NotFoundError(f"{blob.digest} is not what its place says: {error}.") from error
