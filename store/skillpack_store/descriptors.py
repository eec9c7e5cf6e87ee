"""Digests, descriptors and canonical JSON: how content is named.

Formats: https://github.com/opencontainers/image-spec (descriptor.md) and RFC 8259, with the freedoms of JSON taken
away, so that equal content has equal bytes and a document has one meaning.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Iterator

    from typing_extensions import Buffer

__all__ = ["DOCUMENT_LIMIT", "Descriptor", "blob_path", "canonical_json", "digest_of", "parse_digest", "parse_json"]

DOCUMENT_LIMIT = 4 << 20  # bytes; registries take no larger manifest (OCI distribution-spec)
_DEPTH_LIMIT = 32
_NUMBER_LIMIT = 40  # characters
_VALUES_LIMIT = 1 << 23
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}/[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}")


@dataclass(frozen=True)
class Descriptor:
    """What identifies a blob: its digest, its size in bytes and what it is.

    >>> blob = Descriptor(digest_of(b"{}"), 2, "application/json")
    >>> Descriptor.from_json(blob.to_json()) == blob
    True
    """

    digest: str
    size: int
    media_type: str
    artifact_type: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict, hash=False)

    def to_json(self) -> dict[str, Any]:
        """Return the OCI descriptor; empty optional fields are left out."""
        document: dict[str, Any] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if self.artifact_type:
            document["artifactType"] = self.artifact_type
        if self.annotations:
            document["annotations"] = dict(self.annotations)
        return document

    @classmethod
    def from_json(cls, document: object) -> Descriptor:
        """Read an OCI descriptor; fields that are not used here (``platform``, ``urls``) are passed over.

        Raises:
            ValueError: A field is missing or has the wrong type or form.
        """
        if not isinstance(document, dict):
            raise ValueError("a descriptor must be an object")  # noqa: TRY004  the value is a document's, not a caller's
        size = document.get("size")
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 1 << 63:
            raise ValueError("a descriptor's size must be a number of bytes")
        media_type = parse_media_type(document.get("mediaType"))
        artifact_type = parse_media_type(document["artifactType"]) if document.get("artifactType") else ""
        annotations = text_map(document.get("annotations", {}))
        return cls(parse_digest(document.get("digest")), size, media_type, artifact_type, annotations)


def digest_of(data: Buffer) -> str:
    """Return the digest of ``data``, ``sha256:`` and 64 lowercase hexadecimal digits."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def blob_path(digest: str) -> str:
    """Return where a blob is in an OCI image layout.

    >>> blob_path("sha256:" + "0" * 64)[:16]
    'blobs/sha256/000'
    """
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def parse_digest(text: object) -> str:
    """Return ``text`` if it is a digest in the one form that is used here.

    Raises:
        ValueError: It is not ``sha256:`` and 64 lowercase hexadecimal digits.

    >>> parse_digest("sha256:" + "0" * 64)[:11]
    'sha256:0000'
    >>> parse_digest("sha256:../../etc/passwd")
    Traceback (most recent call last):
    ValueError: not a digest (sha256: and 64 lowercase hexadecimal digits): 'sha256:../../etc/passwd'
    """
    if isinstance(text, str) and _DIGEST.fullmatch(text):
        return text
    raise ValueError(f"not a digest (sha256: and 64 lowercase hexadecimal digits): {str(text)[:80]!r}")


def canonical_json(value: Any) -> bytes:
    """Write ``value`` in the one way that its digest is taken of: sorted keys, no spaces, UTF-8.

    Raises:
        ValueError: NaN, an infinity, a key that is not text, or text that UTF-8 cannot hold.
        TypeError: Something that JSON has no form for.

    >>> canonical_json({"b": [1, 2.5], "a": "é"}).decode()
    '{"a":"é","b":[1,2.5]}'
    """
    for part, _ in _walk(value):
        if isinstance(part, Mapping) and not all(isinstance(key, str) for key in part):
            raise ValueError("keys of a JSON object must be text")
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def parse_json(data: bytes, *, limit: int = DOCUMENT_LIMIT) -> Any:
    """Read JSON that somebody else wrote.

    Args:
        data: The document, UTF-8.
        limit: The most bytes it may have.

    Raises:
        ValueError: It is too long or nested too deeply, has too many values, is not JSON, has a key twice, a number
            that is not finite or overlong, or text that UTF-8 cannot hold.

    >>> parse_json(b'{"a": 1, "a": 2}')
    Traceback (most recent call last):
    ValueError: the key 'a' is there twice
    """
    if len(data) > limit:
        raise ValueError(f"the document has {len(data)} bytes, more than the {limit} that are allowed")
    refuse_crowd(data)
    try:
        value = json.loads(
            data.decode(),
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_number,
            parse_constant=_refuse_constant,
        )
    except RecursionError:
        raise ValueError("the document is nested too deeply") from None
    if _depth([value]) - 1 > _DEPTH_LIMIT:
        raise ValueError("the document is nested too deeply")
    if b"\\u" in data:
        # Only an escape can give half of a surrogate pair.
        for part, _ in _walk(value):
            if isinstance(part, str):
                part.encode()
    return value


def refuse_crowd(data: bytes) -> None:
    """Refuse JSON whose values would take far more memory than its text does, before any of them is made.

    Raises:
        ValueError: It has more than eight million values; commas and brackets in text are counted with them.
    """
    if len(data) > _VALUES_LIMIT and data.count(b",") + data.count(b"[") + data.count(b"{") > _VALUES_LIMIT:
        raise ValueError(f"the document has more than {_VALUES_LIMIT} values")


def text_map(value: object) -> dict[str, str]:
    """Return ``value`` if it maps text to text, as annotations do; raises ``ValueError`` otherwise."""
    if isinstance(value, dict) and all(isinstance(key, str) and isinstance(text, str) for key, text in value.items()):
        return value
    raise ValueError("annotations must map text to text")


def parse_media_type(text: object) -> str:
    """Return ``text`` if it is a media type (RFC 6838); raises ``ValueError`` otherwise."""
    if isinstance(text, str) and _MEDIA_TYPE.fullmatch(text):
        return text
    raise ValueError(f"not a media type: {str(text)[:80]!r}")


def _walk(value: Any) -> Iterator[tuple[Any, int]]:
    """Yield every value and key of a document with its depth; not recursive, the document may be hostile."""
    waiting = [(value, 0)]
    while waiting:
        part, depth = waiting.pop()
        yield part, depth
        if isinstance(part, Mapping):
            waiting.extend((inner, depth + 1) for pair in part.items() for inner in pair)
        elif isinstance(part, list | tuple):
            waiting.extend((inner, depth + 1) for inner in part)


def _depth(value: Any) -> int:
    """Return how deep the deepest part of a document is, level by level; far faster than a look at every part."""
    depth, level = 0, [value]
    while level:
        inner = [part for outer in level if outer for part in (outer.values() if type(outer) is dict else outer)]
        if not inner:
            break
        depth += 1
        level = [part for part in inner if type(part) is dict or type(part) is list]
    return depth


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) == len(pairs):
        return result
    result = {}
    for key, value in pairs:
        if key in result:
            raise ValueError(f"the key {key[:80]!r} is there twice")
        result[key] = value
    return result


def _integer(text: str) -> int:
    if len(text) > _NUMBER_LIMIT:
        raise ValueError("a number is too long")
    return int(text)


def _number(text: str) -> float:
    number = float(text)
    if len(text) > _NUMBER_LIMIT or not math.isfinite(number):
        raise ValueError("a number is too long or too large")
    return number


def _refuse_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a number that JSON has")
