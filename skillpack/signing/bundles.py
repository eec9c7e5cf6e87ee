r"""Signatures: what is signed, byte for byte, and the bundle in which it is kept.

A signature is a Sigstore bundle (``application/vnd.dev.sigstore.bundle.v0.3+json``, sigstore/protobuf-specs) with a
DSSE envelope (secure-systems-lab/dsse, protocol 1.0.2) around an in-toto statement (in-toto/attestation, Statement v1)
of the predicate type that cosign 3 gives to signatures. It is attached to the skill's manifest as an OCI referrer, as
cosign's ``BUNDLE_SPEC.md`` says. The signed statement is canonical JSON without spaces, here broken in lines::

    {"_type":"https://in-toto.io/Statement/v1",
     "predicate":{},
     "predicateType":"https://sigstore.dev/cosign/sign/v1",
     "subject":[{"digest":{"sha256":"<64 hex digits>"},"name":"<skill>"}]}

and the bytes that Ed25519 signs are DSSE's pre-authentication encoding of it, which no other use of the key produces::

    DSSEv1 28 application/vnd.in-toto+json <length of the statement> <statement>

The digest is the skill's own, that of its OCI manifest, so it covers every byte. The name is signed too: a signature of
one skill is none of another, even if the same key may sign both.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from skillpack_store import canonical_json, check_skill_name, parse_digest, parse_json
from skillpack_store.errors import StoreError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from skillpack.signing.keys import PublicKey

BUNDLE_TYPE: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
BUNDLE_LIMIT: Final = 64 << 10  # bytes
PREDICATE: Final = "https://sigstore.dev/cosign/sign/v1"
ANNOTATIONS: Final = {"dev.sigstore.bundle.content": "dsse-envelope", "dev.sigstore.bundle.predicateType": PREDICATE}
_STATEMENT: Final = "https://in-toto.io/Statement/v1"
_PAYLOAD: Final = "application/vnd.in-toto+json"
_SIGNATURE_BYTES: Final = 64


@dataclass(frozen=True)
class Bundle:
    """A signature as it was found; nothing about it has been verified.

    Attributes:
        key_id: of the key that it claims to be by, 64 hexadecimal digits.
        signature: 64 bytes.
        signed: the bytes that were signed.
        digest: of the skill that the statement is about.
        name: of the skill, likewise.
    """

    key_id: str
    signature: bytes
    signed: bytes
    digest: str
    name: str

    @classmethod
    def parse(cls, data: bytes) -> Bundle:
        """Read a bundle; raises ``ValueError`` with what is wrong with it."""
        document = parse_json(data, limit=BUNDLE_LIMIT)
        if _field(document, "mediaType", str) != BUNDLE_TYPE:
            raise ValueError("its mediaType is not that of a Sigstore bundle, version 0.3")
        material = _field(document, "verificationMaterial", dict)
        hint = _unbase64(_field(_field(material, "publicKey", dict), "hint", str))
        if len(hint) != 32:
            raise ValueError("its hint is not the SHA-256 of a key")
        envelope = _field(document, "dsseEnvelope", dict)
        if _field(envelope, "payloadType", str) != _PAYLOAD:
            raise ValueError("its payload is not an in-toto statement")
        found = _field(envelope, "signatures", list)
        if len(found) != 1:
            raise ValueError(f"its envelope has {len(found)} signatures instead of one")
        signature = _unbase64(_field(found[0], "sig", str))
        if len(signature) != _SIGNATURE_BYTES:
            raise ValueError(f"its signature has {len(signature)} bytes instead of {_SIGNATURE_BYTES}")
        payload = _unbase64(_field(envelope, "payload", str))
        digest, name = _parse_statement(payload)
        return cls(hint.hex(), signature, pre_authentication_encoding(payload), digest, name)


def statement(digest: str, name: str) -> bytes:
    """What is signed about a skill.

    >>> statement("sha256:" + "0" * 64, "math")[-26:]
    b'0000000"},"name":"math"}]}'
    """
    subject = {"digest": {"sha256": parse_digest(digest).removeprefix("sha256:")}, "name": check_skill_name(name)}
    return canonical_json({"_type": _STATEMENT, "predicateType": PREDICATE, "predicate": {}, "subject": [subject]})


def pre_authentication_encoding(payload: bytes) -> bytes:
    """The bytes that are signed for a payload (DSSE's PAE).

    >>> pre_authentication_encoding(b"{}")
    b'DSSEv1 28 application/vnd.in-toto+json 2 {}'
    """
    return b"DSSEv1 %d %s %d %s" % (len(_PAYLOAD), _PAYLOAD.encode(), len(payload), payload)


def make_bundle(private: Ed25519PrivateKey, public: PublicKey, digest: str, name: str) -> bytes:
    """Sign a skill; the same key and skill always give the same bundle."""
    payload = statement(digest, name)
    signature = private.sign(pre_authentication_encoding(payload))
    return canonical_json(
        {
            "mediaType": BUNDLE_TYPE,
            "verificationMaterial": {"publicKey": {"hint": public.hint}, "tlogEntries": []},
            "dsseEnvelope": {
                "payload": base64.b64encode(payload).decode(),
                "payloadType": _PAYLOAD,
                "signatures": [{"keyid": public.id, "sig": base64.b64encode(signature).decode()}],
            },
        }
    )


def _parse_statement(payload: bytes) -> tuple[str, str]:
    """Digest and name of the skill that a statement is about."""
    document = parse_json(payload, limit=BUNDLE_LIMIT)
    if _field(document, "_type", str) != _STATEMENT or _field(document, "predicateType", str) != PREDICATE:
        raise ValueError("its statement is not that of a signature")
    subjects = _field(document, "subject", list)
    if len(subjects) != 1:
        raise ValueError(f"its statement is about {len(subjects)} subjects instead of one")
    digests = _field(subjects[0], "digest", dict)
    digest = parse_digest(f"sha256:{_field(digests, 'sha256', str)}")
    try:
        return digest, check_skill_name(_field(subjects[0], "name", str))
    except StoreError as error:
        raise ValueError(f"in its statement, {error.message}") from error


def _field(document: Any, key: str, kind: type) -> Any:
    value = document.get(key) if isinstance(document, dict) else None
    if not isinstance(value, kind):
        raise ValueError(f"its {key} is missing or of the wrong kind")  # noqa: TRY004  a document's value
    return value


def _unbase64(text: str) -> bytes:
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise ValueError("it has text that is not base64") from error
    # The last digit has bits that decoding ignores; one signature must have one form.
    if base64.b64encode(data).decode() != text:
        raise ValueError("it has base64 that is not in its one form")
    return data
