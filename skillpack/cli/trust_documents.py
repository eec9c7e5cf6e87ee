"""The JSON that commands on keys, signatures and the policy print, and what its keys mean; see `documents`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from skillpack.signing import KeyInfo, Policy, Signature, TrustedKey

_KEY: Final = {
    "name": "name of the key",
    "key_id": "SHA-256 of its public half (SubjectPublicKeyInfo, DER), hexadecimal",
    "public": "its public half, PEM",
    "path": "file of its public half; the private one is beside it",
    "encrypted": "the private half is kept under a password",
}
_SIGNATURE: Final = {
    "digest": "of the attachment that holds the signature",
    "key_id": "of the key that it says it is by; empty if it cannot be read",
    "signer": "whose key that is; empty if it is not known",
    "name": "of the skill that it is about",
    "problem": "why it does not count; empty if it does",
}
_TRUSTED: Final = {
    "name": "whose key it is",
    "key_id": "SHA-256 of it, hexadecimal",
    "public": "the key, PEM",
    "skills[]": "patterns of names of skills that it may sign",
    "expires": "day (UTC) from which on it counts no longer; null for never",
    "revoked": "none of its signatures counts",
}


def _within(prefix: str, keys: Mapping[str, str]) -> dict[str, str]:
    return {f"{prefix}.{key}": meaning for key, meaning in keys.items()}


TRUST_KEYS: Final[Mapping[str, Mapping[str, str]]] = {
    "sign": _within("signatures[]", _SIGNATURE),
    "signatures": _within("signatures[]", _SIGNATURE),
    "key new": _KEY,
    "key list": _within("keys[]", _KEY),
    "key show": _KEY,
    "policy show": {"mode": "off, warn or require", **_within("keys[]", _TRUSTED)},
    "policy set": {"mode": "off, warn or require", **_within("keys[]", _TRUSTED)},
    "policy trust": _TRUSTED,
    "policy untrust": _TRUSTED,
}


def signatures_document(signatures: Iterable[Signature]) -> dict[str, Any]:
    """What `sign` and `signatures` print."""
    return {"signatures": [asdict(signature) for signature in signatures]}


def key_document(key: KeyInfo) -> dict[str, Any]:
    """What `key new` and `key show` print."""
    return {**asdict(key), "path": str(key.path)}


def keys_document(keys: Iterable[KeyInfo]) -> dict[str, Any]:
    """What `key list` prints."""
    return {"keys": [key_document(key) for key in keys]}


def trusted_document(trusted: TrustedKey) -> dict[str, Any]:
    """What `policy trust` and `policy untrust` print."""
    return {
        "name": trusted.name,
        "key_id": trusted.key.id,
        "public": trusted.key.pem(),
        "skills": list(trusted.skills),
        "expires": trusted.expires,
        "revoked": trusted.revoked,
    }


def policy_document(policy: Policy) -> dict[str, Any]:
    """What `policy show` and `policy set` print."""
    return {"mode": policy.mode, "keys": [trusted_document(trusted) for trusted in policy.keys]}
