"""A model repository of the Hub as a remote (see ``skillpack_store.remotes.hub``)."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, HfApi, constants
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, OfflineModeIsEnabled
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # public, not marked so

from skillpack_store.descriptors import Descriptor, digest_of, parse_digest, parse_json
from skillpack_store.documents import INDEX, MANIFEST
from skillpack_store.errors import AuthenticationError, BusyError, NotFoundError, RemoteError
from skillpack_store.remotes.client import Client
from skillpack_store.remotes.hf.pending import Pending, quiet, spooled
from skillpack_store.remotes.hf.state import STATE_LIMIT, STATE_PATH, State, blob_path
from skillpack_store.remotes.hf.view import CARD_LIMIT, repository_card, view_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from urllib3 import BaseHTTPResponse

    from skillpack_store.remotes.client import Answer
    from skillpack_store.remotes.hf.state import SkillView

    Operation = CommitOperationAdd | CommitOperationCopy | CommitOperationDelete

__all__ = ["HubRemote"]

_TRIES = 20
_BATCH = 500  # paths a request
_ANSWER_LIMIT = 16 << 20  # bytes
_HELD = 64 << 20  # bytes of small blobs in memory before they are committed
_OPERATIONS = 1000
# What the library raises: its own errors (which derive from those of its HTTP library), those of files, and
# ValueError and RuntimeError for answers that it cannot use.
_HUB_ERRORS: tuple[type[Exception], ...] = (
    HfHubHTTPError,
    *(base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception)),
    EntryNotFoundError,
    OSError,
    ValueError,
    RuntimeError,
    KeyError,
    TypeError,
)


class _CardRefusedError(Exception):
    """The Hub does not know a license or a base model that a card names."""


class HubRemote:
    """A model repository; implements ``WritableRemote``.

    Args:
        repository: ``org/name``.
        revision: Its branch.
        token: The access token; None for the one that huggingface_hub finds.
        private: Whether a repository that is made is private; None as the account has it.
        endpoint: The Hub; None for what huggingface_hub uses.
        insecure: Speak plain HTTP to another machine.
        timeout: Seconds, when reading.
        pause: Seconds before the first new try, when reading.
    """

    def __init__(
        self,
        repository: str,
        revision: str,
        *,
        token: str | None,
        private: bool | None,
        endpoint: str | None,
        insecure: bool,
        timeout: float,
        pause: float,
    ) -> None:
        self.url = f"hf://{repository}" + ("" if revision == "main" else f"@{revision}")
        self._repository = repository
        self._revision = revision
        self._private = private
        self._token = token
        self._endpoint = (endpoint or constants.ENDPOINT).rstrip("/")
        self._client = Client(self._endpoint, insecure=insecure, timeout=timeout, pause=pause)
        self._api = HfApi(endpoint=self._endpoint, token=token, library_name="skillpack")
        self._pending = Pending()
        self._exists = False
        self._lock = threading.Lock()

    def refs(self) -> Mapping[str, str]:
        """Return what ``skillpack.json`` says (see ``Remote.refs``)."""
        return self._state(self._revision).refs

    def sizes(self, blobs: Iterable[Descriptor]) -> Mapping[str, int]:
        """Return the sizes of those that are there, or on their way (see ``Remote.sizes``)."""
        digests = [blob.digest for blob in blobs]
        found = {digest: size for digest in digests if (size := self._pending.size(digest)) is not None}
        wanted = [digest for digest in dict.fromkeys(digests) if digest not in found]
        there = self._there([blob_path(digest) for digest in wanted], self._revision)
        return found | {digest: there[path] for digest in wanted if (path := blob_path(digest)) in there}

    def read(self, blob: Descriptor, start: int = 0) -> Iterator[bytes]:
        """Yield a blob from byte ``start`` on, never more than it may have (see ``Remote.read``)."""
        content = self._pending.content(blob.digest)
        if content is not None:
            yield content[start:]
            return
        path = blob_path(blob.digest)
        headers = {"Range": f"bytes={start}-"} if start else {}
        with self._open("GET", self._file_url(path, self._revision), headers) as response:
            if response.status == 416 and start == blob.size:
                return
            if response.status not in {200, 206}:
                raise self._refusal(response.status, f"blob {blob.digest} could not be read")
            skip = start - (_first_byte(response) if response.status == 206 else 0)
            left = (blob.size or _ANSWER_LIMIT) - start
            for chunk in self._client.chunks(response):
                wanted = chunk[skip:]
                skip = max(0, skip - len(chunk))
                left -= len(wanted)
                if left < 0:
                    raise RemoteError(f"{self.url} sent more than the {blob.size} bytes of blob {blob.digest}.")
                if wanted:
                    yield wanted

    def write(self, blob: Descriptor, chunks: Callable[[], Iterator[bytes]]) -> None:
        """Upload a blob, or keep it until a ref moves (see ``WritableRemote.write``, and ``remotes.hub``)."""
        self._require_repository()
        with spooled(blob, chunks) as content, self._errors(f"blob {blob.digest} could not be uploaded"), quiet():
            operation = CommitOperationAdd(blob_path(blob.digest), content)
            self._api.preupload_lfs_files(self._repository, [operation], revision=self._revision)
            if not isinstance(operation.path_or_fileobj, bytes):
                # The Hub wants it as an ordinary file, which are small.
                operation = CommitOperationAdd(blob_path(blob.digest), b"".join(chunks()))
        document = content if isinstance(content, bytes) and _is_read_again(blob) else None
        self._pending.add(blob, operation, document)
        if self._pending.in_memory() > _HELD or len(self._pending.operations()) >= _OPERATIONS:
            with self._lock:
                self._flush()

    def update_ref(self, ref: str, digest: str | None, *, expected: str | None) -> None:
        """Commit what was written together with the ref (see ``WritableRemote.update_ref``, and ``remotes.hub``)."""
        if digest is not None:
            parse_digest(digest)
        self._require_repository()
        with self._lock:
            lost: RemoteError | None = None
            for _ in range(_TRIES):
                head = self._head()
                state = self._state(head)
                found = state.refs.get(ref)
                if lost is not None and found == digest:
                    # The answer was lost, and not the commit.
                    return
                if found != expected:
                    raise self._moved(ref, found, expected)
                if lost is not None:
                    raise lost
                try:
                    if self._commit(head, state, ref, digest):
                        return
                except RemoteError as error:
                    lost = error
        raise BusyError(f"Others commit to {self.url} again and again.", hint="Try again later.")

    def _commit(self, head: str, state: State, ref: str, digest: str | None) -> bool:
        """Make the commit that moves a ref; False if another commit was made since ``head``."""
        refs = {name: value for name, value in state.refs.items() if name != ref}
        if digest is not None:
            if self._pending.size(digest) is None and not self._there([blob_path(digest)], head):
                raise NotFoundError(f"{self.url} does not have {digest}, so {ref} cannot name it.")
            refs[ref] = digest
        view = view_of(refs, state.skills, self._document)
        try:
            return self._commit_view(head, state, refs, view, f"{ref} -> {digest or 'nothing'}", facts=True)
        except _CardRefusedError:
            return self._commit_view(head, state, refs, view, f"{ref} -> {digest or 'nothing'}", facts=False)

    def _commit_view(
        self,
        head: str,
        state: State,
        refs: Mapping[str, str],
        view: Mapping[str, SkillView],
        message: str,
        *,
        facts: bool,
    ) -> bool:
        card, card_digest = self._card(head, state.card, repository_card(self._repository, view, facts=facts))
        new = State(refs, view, card_digest)
        pending = self._pending.operations()
        operations: list[Operation] = [*pending.values(), *self._view_operations(head, state, new)]
        operations.append(CommitOperationAdd(STATE_PATH, new.build()))
        if card is not None:
            operations.append(CommitOperationAdd("README.md", card))
        if not self._send(operations, message, head):
            return False
        self._pending.committed(pending)
        return True

    def _flush(self) -> None:
        """Commit blobs that nothing refers to yet, so that they need not be kept in memory."""
        pending = self._pending.operations()
        if pending and self._send(list(pending.values()), f"{len(pending)} blobs", None):
            self._pending.committed(pending)

    def _send(self, operations: list[Operation], message: str, parent: str | None) -> bool:
        with self._errors("the commit was not made", conflict=True) as conflict, quiet():
            self._api.create_commit(
                self._repository,
                operations,
                commit_message=message,
                revision=self._revision,
                parent_commit=parent,
            )
        return not conflict

    def _view_operations(self, head: str, before: State, after: State) -> list[Operation]:
        """Return what makes the files that people see those of ``after``."""
        old, new = before.files(), after.files()
        # Only what is there: somebody may have deleted a file by hand.
        gone = self._there([path for path in old if path not in new], head)
        operations: list[Operation] = [CommitOperationDelete(path, is_folder=False) for path in gone]
        for path, file in new.items():
            if path not in old or old[path].digest != file.digest:
                # What is on its way has no place yet that it could be copied from.
                written = self._pending.operation(file.digest, path)
                operations.append(written or CommitOperationCopy(blob_path(file.digest), path))
        return operations

    def _card(self, head: str, before: str, card: bytes) -> tuple[bytes | None, str]:
        """Return the card if it is to be written, and the digest of the last one that was."""
        if digest_of(card) == before:
            return None, before
        answer = self._fetch("GET", self._file_url("README.md", head), CARD_LIMIT)
        if answer.status == 200 and digest_of(answer.data) != before:
            # Somebody wrote their own.
            return None, before
        return card, digest_of(card)

    def _document(self, blob: Descriptor, limit: int) -> bytes:
        data = b"".join(self.read(Descriptor(blob.digest, blob.size or limit, blob.media_type)))
        if digest_of(data) != blob.digest:
            raise RemoteError(f"What {self.url} has as {blob.digest} has another digest.")
        return data

    def _require_repository(self) -> None:
        with self._lock:
            if self._exists:
                return
            with self._errors("the repository could not be made"), quiet():
                self._api.create_repo(self._repository, private=self._private, exist_ok=True)
                if self._revision != "main":
                    self._api.create_branch(self._repository, branch=self._revision, exist_ok=True)
            self._exists = True

    def _head(self) -> str:
        """Return the Hub's id of the newest commit of the branch."""
        path = f"/api/models/{self._repository}/revision/{quote(self._revision, safe='')}"
        answer = self._fetch("GET", self._endpoint + path, _ANSWER_LIMIT)
        if answer.status != 200:
            raise self._refusal(answer.status, f"the branch {self._revision} could not be read")
        sha = self._parsed(answer, dict).get("sha")
        if not isinstance(sha, str) or not constants.REGEX_COMMIT_OID.fullmatch(sha):
            raise RemoteError(f"{self._endpoint} does not say which commit {self.url} has.")
        return sha

    def _state(self, revision: str) -> State:
        answer = self._fetch("GET", self._file_url(STATE_PATH, revision), STATE_LIMIT)
        if answer.status == 404:
            return State()
        if answer.status != 200:
            raise self._refusal(answer.status, f"{STATE_PATH} could not be read")
        try:
            return State.parse(answer.data)
        except ValueError as error:
            raise RemoteError(
                f"The file {STATE_PATH} of {self.url} cannot be used: {error}.",
                hint="Restore it from the repository's history on the Hub.",
            ) from error

    def _there(self, paths: list[str], revision: str) -> dict[str, int]:
        """Return path -> size in bytes of those of these files that the repository has."""
        found: dict[str, int] = {}
        for start in range(0, len(paths), _BATCH):
            found.update(self._paths_info(paths[start : start + _BATCH], revision))
        return found

    def _paths_info(self, paths: list[str], revision: str) -> dict[str, int]:
        form = urlencode([*(("paths", path) for path in paths), ("expand", "false")])
        url = f"{self._endpoint}/api/models/{self._repository}/paths-info/{quote(revision, safe='')}"
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = self._fetch("POST", url, _ANSWER_LIMIT, headers, form.encode())
        if answer.status == 404:
            return {}
        if answer.status != 200:
            raise self._refusal(answer.status, "the files could not be listed")
        wanted, found = set(paths), {}
        for entry in self._parsed(answer, list):
            path, size = (entry.get("path"), entry.get("size")) if isinstance(entry, dict) else (None, None)
            if isinstance(path, str) and path in wanted and isinstance(size, int):
                found[path] = size
        return found

    def _file_url(self, path: str, revision: str) -> str:
        return f"{self._endpoint}/{self._repository}/resolve/{quote(revision, safe='')}/{path}"

    @contextmanager
    def _open(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None = None
    ) -> Iterator[BaseHTTPResponse]:
        if constants.HF_HUB_OFFLINE:
            raise RemoteError(f"{self.url} cannot be reached: HF_HUB_OFFLINE is set.", hint="Unset it.")
        own = build_hf_headers(token=self._token, library_name="skillpack")
        authorization = own.get("authorization", "")
        sent = {"User-Agent": own["user-agent"], **headers}
        with self._client.open(
            method, url, headers=sent, body=body, authorization=authorization, repeat=True
        ) as response:
            yield response

    def _fetch(
        self, method: str, url: str, limit: int, headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> Answer:
        with self._open(method, url, headers or {}, body) as response:
            return self._client.whole(response, limit)

    def _parsed(self, answer: Answer, kind: type) -> Any:
        try:
            document = parse_json(answer.data, limit=_ANSWER_LIMIT)
        except ValueError:
            document = None
        if not isinstance(document, kind):
            raise RemoteError(f"The answer of {answer.url.partition('?')[0]} cannot be read.")
        return document

    @contextmanager
    def _errors(self, what: str, *, conflict: bool = False) -> Iterator[list[str]]:
        """Turn what the Hub's library raises into errors of ours; with ``conflict`` note one in the list."""
        conflicts: list[str] = []
        try:
            yield conflicts
        except RemoteError:
            raise
        except OfflineModeIsEnabled as error:
            raise RemoteError(f"{self.url} cannot be reached: HF_HUB_OFFLINE is set.", hint="Unset it.") from error
        except _HUB_ERRORS as error:
            if isinstance(error, ValueError) and str(error).startswith("Invalid metadata in README.md"):
                raise _CardRefusedError from error
            response = getattr(error, "response", None)
            status = getattr(response, "status_code", None)
            if conflict and status == 412:
                conflicts.append(what)
            elif status is not None:
                raise self._refusal(int(status), what, str(error)) from error
            else:
                reason = _line(f"{error}: {error.__cause__}" if error.__cause__ else str(error)) or type(error).__name__
                raise RemoteError(f"{self.url}: {what} ({reason}).") from error

    def _refusal(self, status: int, what: str, said: str = "") -> RemoteError | NotFoundError:
        detail = f" ({_line(said)})" if said else ""
        if status in {401, 403}:
            return AuthenticationError(
                f"The Hub does not allow this to you, or {self.url} is not there: {what}{detail}.",
                hint="Log in with hf auth login, with a token that may write if you push; check the name.",
            )
        if status == 404:
            return NotFoundError(f"{self.url} does not have it: {what}{detail}.")
        return RemoteError(f"The Hub answered with {status} for {self.url}: {what}{detail}.")

    def _moved(self, ref: str, found: str | None, expected: str | None) -> BusyError:
        return BusyError(
            f"{ref} of {self.url} was moved by somebody else: it names {found or 'nothing'}, expected was "
            f"{expected or 'nothing'}.",
            hint="Fetch, look at what changed, then push again.",
        )


def _is_read_again(blob: Descriptor) -> bool:
    """Tell whether the view of the library may need a blob that is on its way: a document, or a card."""
    return blob.media_type in {MANIFEST, INDEX} or blob.media_type.startswith("text/")


def _first_byte(response: BaseHTTPResponse) -> int:
    """Return the offset at which a part of a file begins."""
    unit, _, rest = (response.headers.get("Content-Range") or "").partition(" ")
    first = rest.partition("-")[0]
    if unit != "bytes" or not first.isdigit() or len(first) > 18:
        raise RemoteError(f"{(response.url or '').partition('?')[0]} does not say which part of a file it sends.")
    return int(first)


def _line(text: str) -> str:
    """Return the start of what somebody else said, as one line."""
    line = " ".join(text.split())
    return "".join(letter for letter in line if letter.isprintable())[:300].rstrip(".")
