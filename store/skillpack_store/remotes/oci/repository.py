"""One repository of an OCI registry as a remote (see ``skillpack_store.remotes.registry``)."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from skillpack_store.descriptors import DOCUMENT_LIMIT, canonical_json, digest_of, parse_digest, parse_json
from skillpack_store.documents import COMMIT_TYPE, INDEX, MANIFEST
from skillpack_store.errors import BusyError, NotFoundError, RemoteError
from skillpack_store.remotes.client import origin_of
from skillpack_store.remotes.oci.session import DELETE, PUSH, header_of
from skillpack_store.remotes.oci.tags import commit_tag, ref_of, tag_of
from skillpack_store.remotes.oci.uploads import upload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from urllib3 import BaseHTTPResponse

    from skillpack_store.descriptors import Descriptor
    from skillpack_store.remotes.client import Answer
    from skillpack_store.remotes.oci.session import Session

__all__ = ["RegistryRemote"]

_DOCKER = (
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_MANIFESTS = {MANIFEST, INDEX, *_DOCKER}
_ACCEPT = {"Accept": ", ".join((MANIFEST, INDEX, *_DOCKER))}
_THREADS = 8
_PAGE_LIMIT = 16 << 20  # bytes
_TAG_LIMIT = 1_000_000
_NEXT = re.compile(r'<([^<>]{1,2000})>\s*;\s*rel="?next"?')
_RANGE = re.compile(r"bytes ([0-9]{1,18})-[0-9]{1,18}/(?:[0-9]{1,18}|\*)")
_DELETED = canonical_json(
    {
        "schemaVersion": 2,
        "mediaType": INDEX,
        "artifactType": "application/vnd.skillpack.deleted.v1+json",
        "manifests": [],
    }
)


class RegistryRemote:
    """A repository of a registry; implements ``WritableRemote``.

    Args:
        url: ``oci://host[:port]/namespace/name``.
        session: Requests to it.
        part: Bytes; larger blobs are sent in parts of this size.
        mount_from: Other repositories that may have blobs already.
    """

    def __init__(self, url: str, session: Session, *, part: int, mount_from: Sequence[str] = ()) -> None:
        self.url = url
        self._session = session
        self._part = part
        self._mount_from = mount_from

    def refs(self) -> Mapping[str, str]:
        """Return what the tags say (see ``Remote.refs``); tags that name no library are passed over."""
        tags = set(self._tags())
        refs = {tag: ref for tag in tags if (ref := ref_of(tag))}
        with ThreadPoolExecutor(_THREADS) as threads:
            found = dict(zip(refs, threads.map(lambda tag: self._library(tag, tags), refs), strict=True))
        return {refs[tag]: digest for tag, digest in sorted(found.items()) if digest}

    def sizes(self, blobs: Iterable[Descriptor]) -> Mapping[str, int]:
        """Return the sizes of those that are there (see ``Remote.sizes``)."""
        wanted = {blob.digest: blob for blob in blobs}
        with ThreadPoolExecutor(_THREADS) as threads:
            found = dict(zip(wanted, threads.map(self._size, wanted.values()), strict=True))
        return {digest: size for digest, size in found.items() if size is not None}

    def read(self, blob: Descriptor, start: int = 0) -> Iterator[bytes]:
        """Yield a blob from byte ``start`` on, never more than it may have (see ``Remote.read``)."""
        headers = dict(_ACCEPT) if _is_manifest(blob) else {}
        if start:
            headers["Range"] = f"bytes={start}-"
        with self._session.open("GET", _path(blob), headers=headers) as response:
            if response.status == 416 and start == blob.size:
                return
            if response.status not in {200, 206}:
                raise self._session.refusal(response, f"blob {blob.digest} could not be read")
            skip = start - self._begins(response, blob)
            left = (blob.size or DOCUMENT_LIMIT if _is_manifest(blob) else blob.size) - start
            for chunk in self._session.client.chunks(response):
                wanted = chunk[skip:]
                skip = max(0, skip - len(chunk))
                if len(wanted) > left:
                    raise RemoteError(f"{self.url} sent more than the {blob.size} bytes of blob {blob.digest}.")
                left -= len(wanted)
                if wanted:
                    yield wanted

    def write(self, blob: Descriptor, chunks: Callable[[], Iterator[bytes]]) -> None:
        """Store a blob (see ``WritableRemote.write``); a commit gets its tag with it.

        A registry may collect a manifest that no tag leads to. So a skill is safe once its commit is written, an
        attachment once the list that names it is a ref; registries wait long enough in between.
        """
        if _is_manifest(blob):
            self._write_manifest(blob, chunks)
        else:
            upload(self._session, blob, chunks, part=self._part, mount_from=self._mount_from)

    def update_ref(self, ref: str, digest: str | None, *, expected: str | None) -> None:
        """Move a tag (see ``WritableRemote.update_ref``, and ``remotes.registry`` about races)."""
        tag = tag_of(ref)
        found, mark = self._look(tag)
        if found != expected:
            raise _moved(self.url, ref, found, expected)
        if digest is None:
            if found is not None:
                self._delete(tag)
        else:
            condition = {"If-Match": mark} if mark else {"If-None-Match": "*"} if found is None else {}
            self._put(ref, tag, parse_digest(digest), condition, expected)

    def _put(self, ref: str, tag: str, digest: str, condition: dict[str, str], expected: str | None) -> None:
        data = self._manifest(digest)
        if data is None:
            raise NotFoundError(f"{self.url} does not have {digest}, so {ref} cannot name it.")
        media_type = str(parse_json(data).get("mediaType", INDEX))
        lost: RemoteError | None = None
        try:
            answer = self._send(tag, data, media_type, condition)
            if answer.status == 412:
                raise _moved(self.url, ref, self._look(tag)[0], expected)
            if answer.status not in {200, 201}:
                raise self._session.refusal(answer, f"{ref} could not be moved")
        except RemoteError as error:
            lost = error
        # Also after an error: the answer may have been lost and not the request.
        found, _ = self._look(tag)
        if found == digest:
            return
        raise lost or _moved(self.url, ref, found, digest)

    def _delete(self, tag: str) -> None:
        """Take a tag away, and only the tag.

        Registries that follow the specification do that. Others (docker-registry) delete manifests only, with all
        tags that they have; there the tag is first made to name something of its own. Where nothing can be deleted,
        nothing is changed.
        """
        answer = self._session.fetch("DELETE", f"manifests/{tag}", action=DELETE)
        if answer.status in {200, 202, 204, 404}:
            return
        if answer.status in {401, 403}:
            raise self._session.refusal(answer, f"the tag {tag} could not be deleted")
        marker = digest_of(_DELETED)
        self._send(marker, _DELETED, INDEX, {})
        answer = self._session.fetch("DELETE", f"manifests/{marker}", action=DELETE)
        if answer.status not in {200, 202, 204}:
            raise RemoteError(
                f"{self.url} does not let anybody delete: the tag {tag} stays (the registry answered with "
                f"{answer.status}).",
                hint="Ask the registry's owner to allow it (storage.delete.enabled in a docker-registry), or delete "
                "the tag on its web page.",
            )
        self._send(tag, _DELETED, INDEX, {})
        self._session.fetch("DELETE", f"manifests/{marker}", action=DELETE)
        if self._look(tag)[0] not in {None, marker}:
            raise RemoteError(f"{self.url} did not delete the tag {tag}.", hint="Look at what it names, and try again.")

    def _write_manifest(self, blob: Descriptor, chunks: Callable[[], Iterator[bytes]]) -> None:
        data = bytearray()
        for chunk in chunks():
            data += chunk
            if len(data) > DOCUMENT_LIMIT:
                raise RemoteError(f"{blob.digest} is longer than the {DOCUMENT_LIMIT} bytes that registries take.")
        content = bytes(data)
        if digest_of(content) != blob.digest:
            raise RemoteError(f"What was to be sent as {blob.digest} has another digest.")
        place = commit_tag(blob.digest) if _is_commit(content) else blob.digest
        answer = self._send(place, content, blob.media_type, {})
        if answer.status not in {200, 201}:
            raise self._session.refusal(answer, f"{blob.digest} was not taken")
        found = header_of(answer, "Docker-Content-Digest") or blob.digest
        if found != blob.digest:
            raise RemoteError(
                f"{self.url} changed {blob.digest} to {found[:80]!r}.", hint="It cannot keep skills bit for bit."
            )

    def _send(self, place: str, data: bytes, media_type: str, condition: dict[str, str]) -> Answer:
        headers = {"Content-Type": media_type, **condition}
        # A conditional put must not be repeated: it could fail against itself.
        repeat = not condition
        return self._session.fetch("PUT", f"manifests/{place}", action=PUSH, headers=headers, body=data, repeat=repeat)

    def _tags(self) -> Iterator[str]:
        url, count = "tags/list?n=1000", 0
        while url:
            answer = self._session.fetch("GET", url, limit=_PAGE_LIMIT)
            if answer.status == 404:
                return
            if answer.status != 200:
                raise self._session.refusal(answer, "the tags could not be listed")
            tags = self._tags_of(answer)
            yield from tags
            count += len(tags)
            following = _NEXT.search(header_of(answer, "Link"))
            # A page that is empty ends the list, whatever the registry says.
            url = self._session.client.resolve(answer.url, following[1]) if following and tags else ""
            if url and (origin_of(url) != origin_of(self._session.client.home) or count > _TAG_LIMIT):
                raise RemoteError(f"{self.url} has no end of tags.")

    def _tags_of(self, answer: Answer) -> list[str]:
        try:
            tags = parse_json(answer.data, limit=_PAGE_LIMIT).get("tags") or []
            if all(isinstance(tag, str) for tag in tags):
                return list(tags)
        except (ValueError, TypeError, AttributeError):
            pass
        raise RemoteError(f"The list of tags of {self.url} cannot be read.")

    def _library(self, tag: str, tags: set[str]) -> str | None:
        """Return the digest that a tag names; None if that is no commit and no list of attachments."""
        digest, _ = self._look(tag)
        if digest is None or str(ref_of(tag)).startswith("referrers/") or commit_tag(digest) in tags:
            return digest
        # Copied here by another tool, or not ours.
        data = self._manifest(digest)
        return digest if data is not None and _is_commit(data) else None

    def _look(self, tag: str) -> tuple[str | None, str]:
        """Return the digest of the index that a tag names, None if there is none, and its entity tag."""
        answer = self._session.fetch("HEAD", f"manifests/{tag}", headers=_ACCEPT)
        if answer.status == 404:
            return None, ""
        if answer.status != 200:
            raise self._session.refusal(answer, f"the tag {tag} could not be read")
        if header_of(answer, "Content-Type").partition(";")[0].strip() != INDEX:
            return None, header_of(answer, "ETag")
        try:
            digest = parse_digest(header_of(answer, "Docker-Content-Digest"))
        except ValueError:
            data = self._manifest(tag)
            digest = "" if data is None else digest_of(data)
        deleted = not digest or digest == digest_of(_DELETED)
        return None if deleted else digest, header_of(answer, "ETag")

    def _manifest(self, reference: str) -> bytes | None:
        answer = self._session.fetch("GET", f"manifests/{reference}", headers=_ACCEPT)
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise self._session.refusal(answer, f"{reference} could not be read")
        if reference.startswith("sha256:") and digest_of(answer.data) != reference:
            raise RemoteError(f"What {self.url} has as {reference} has another digest.")
        return answer.data

    def _size(self, blob: Descriptor) -> int | None:
        answer = self._session.fetch("HEAD", _path(blob), headers=_ACCEPT if _is_manifest(blob) else None)
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise self._session.refusal(answer, f"blob {blob.digest} could not be looked for")
        length = header_of(answer, "Content-Length")
        # Without one the digest alone says that it is the same blob.
        return int(length) if length.isdigit() and len(length) < 19 else blob.size

    def _begins(self, response: BaseHTTPResponse, blob: Descriptor) -> int:
        """Return the offset of an answer's first byte."""
        if response.status == 200:
            return 0
        found = _RANGE.fullmatch(header_of(response, "Content-Range"))
        if found is None:
            raise RemoteError(f"{self.url} does not say which part of blob {blob.digest} it sends.")
        return int(found[1])


def _is_manifest(blob: Descriptor) -> bool:
    return blob.media_type in _MANIFESTS


def _path(blob: Descriptor) -> str:
    return f"{'manifests' if _is_manifest(blob) else 'blobs'}/{parse_digest(blob.digest)}"


def _is_commit(data: bytes) -> bool:
    try:
        document = parse_json(data)
    except ValueError:
        return False
    return isinstance(document, dict) and document.get("artifactType") == COMMIT_TYPE


def _moved(url: str, ref: str, found: str | None, expected: str | None) -> BusyError:
    return BusyError(
        f"{ref} of {url} was moved by somebody else: it names {found or 'nothing'}, expected was "
        f"{expected or 'nothing'}.",
        hint="Fetch, look at what changed, then push again.",
    )
