"""Which blobs are in use: what digests lead to, from document to document.

References are followed by digest alone, whatever media type they come with. A digest that a document in use mentions
in any other place is taken for one in use as well.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from skillpack_store.descriptors import DOCUMENT_LIMIT
from skillpack_store.documents import PARENTS
from skillpack_store.errors import CorruptStoreError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["Marking", "References", "references"]

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class References(NamedTuple):
    """The digests in a document: of other documents, which lead further, and of everything else."""

    documents: set[str]
    others: set[str]


def references(data: bytes) -> References:
    """Return what a document refers to.

    Unlike the parsers of ``skillpack_store.documents`` this is lenient: it takes the documents of any program.

    Raises:
        ValueError: It is not a JSON object.
    """
    text = data.decode()
    try:
        document = json.loads(text)
    except RecursionError:
        raise ValueError("the document is nested too deeply") from None
    if not isinstance(document, dict):
        raise ValueError("it is not a JSON object")  # noqa: TRY004  the value is a document's, not a caller's
    if "\\" in text:
        # Digests may be written with escapes.
        text += json.dumps(document, ensure_ascii=False)
    annotations = document.get("annotations")
    parents = annotations.get(PARENTS) if isinstance(annotations, dict) else ""
    named = {*_digests(document.get("manifests")), *_digests([document.get("subject")]), *str(parents).split()}
    everything = set(_DIGEST.findall(text))
    return References(named & everything, everything - named)


class Marking:
    """The set of blobs in use, which grows with every root that is followed.

    Args:
        read: Returns the content of a blob of at most the given number of bytes, hashed; raises ``NotFoundError`` or
            ``CorruptStoreError``.
        attached: Digest of a subject -> digests of the lists of what is and was attached to it.

    Attributes:
        digests: The blobs in use.
    """

    def __init__(self, read: Callable[[str, int], bytes], attached: Mapping[str, Iterable[str]]) -> None:
        self.digests: set[str] = set()
        self._read = read
        self._attached = attached
        self._followed: set[str] = set()

    def attach(self, attached: Mapping[str, Iterable[str]]) -> None:
        """Take over a newer list of attachments, also for what was followed before.

        Raises:
            CorruptStoreError: A list of attachments to something in use cannot be read.
        """
        self._attached = attached
        for subject in attached.keys() & self.digests:
            for digest in attached[subject]:
                self.follow(digest, f"refs/referrers/{subject.replace(':', '-')}")

    def follow(self, root: str, name: str) -> None:
        """Mark a document and all that it leads to.

        Args:
            root: Its digest.
            name: What names it, for the message.

        Raises:
            CorruptStoreError: A document on the way is missing or damaged, so that what it leads to is not known.
        """
        self._walk(root, name, strict=True)

    def try_follow(self, root: str) -> None:
        """Mark a blob, which may or may not be a document, and all that it leads to as far as that can be read."""
        self._walk(root, "", strict=False)

    def _walk(self, root: str, name: str, *, strict: bool) -> None:
        waiting = [root]
        self.digests.add(root)
        while waiting:
            digest = waiting.pop()
            if digest in self._followed:
                continue
            found = self._references(digest, name, strict=strict)
            if found is None:
                continue
            self._followed.add(digest)
            self.digests |= found.documents | found.others
            waiting += found.documents
            for reached in (digest, *found.documents, *found.others):
                lists = self._attached.get(reached, ())
                self.digests.update(lists)
                waiting += lists

    def _references(self, digest: str, name: str, *, strict: bool) -> References | None:
        try:
            return references(self._read(digest, DOCUMENT_LIMIT))
        except (NotFoundError, CorruptStoreError, ValueError) as error:
            if not strict:
                return None
            raise CorruptStoreError(
                f"What {name} leads to cannot be read, so it is not known what is in use: {_reason(error, digest)}",
                hint="Nothing was collected. 'skillpack fsck' says more; restore the blob, or delete what names it.",
            ) from error


def _reason(error: Any, digest: str) -> str:
    message = getattr(error, "message", None)
    return message if isinstance(message, str) else f"document {digest} is malformed ({error})."


def _digests(entries: object) -> list[str]:
    if not isinstance(entries, list):
        return []
    digests = (entry.get("digest") for entry in entries if isinstance(entry, dict))
    return [digest for digest in digests if isinstance(digest, str)]
