"""Fuzzes what decides about trust: bundles, policies, keys. ``python fuzz/signatures.py -runs=20000``."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["skillpack", "skillpack_store"]):
    from skillpack.errors import ReportedError
    from skillpack.signing.bundles import Bundle, pre_authentication_encoding, statement
    from skillpack.signing.keys import PublicKey
    from skillpack.signing.policy import Policy
    from skillpack_store import check_skill_name, parse_digest

sys.path.insert(0, str(Path(__file__).parent))
from harness import run

KEY = PublicKey(bytes.fromhex("302a300506032b6570032100") + bytes(31) + b"\x03")


def bundle(data: bytes) -> None:
    with contextlib.suppress(ValueError):
        found = Bundle.parse(data)
        parse_digest(found.digest)
        check_skill_name(found.name)
        assert len(found.signature) == 64
        assert found.signed.startswith(b"DSSEv1 28 application/vnd.in-toto+json ")
        # Nobody has the private half of this key, so nothing can be signed with it.
        assert not KEY.verifies(found.signature, found.signed)


def payload(data: bytes) -> None:
    """A statement in a bundle that is sound otherwise."""
    import base64
    import json

    document = {
        "mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json",
        "verificationMaterial": {"publicKey": {"hint": KEY.hint}},
        "dsseEnvelope": {
            "payload": base64.b64encode(data).decode(),
            "payloadType": "application/vnd.in-toto+json",
            "signatures": [{"sig": base64.b64encode(bytes(64)).decode()}],
        },
    }
    with contextlib.suppress(ValueError):
        found = Bundle.parse(json.dumps(document).encode())
        assert found.signed == pre_authentication_encoding(data)
        assert found.key_id == KEY.id
        assert Bundle.parse(json.dumps(document).encode()) == found
        statement(found.digest, found.name)


def policy(data: bytes) -> None:
    with contextlib.suppress(ReportedError):
        found = Policy.load(data)
        assert Policy.load(found.dump()) == found
        for trusted in found.keys:
            assert trusted.name.isascii()
            trusted.objection("math", "2026-01-02")


def public_key(data: bytes) -> None:
    with contextlib.suppress(ReportedError):
        found = PublicKey.from_pem(data, "it")
        assert PublicKey.from_pem(found.pem().encode(), "it") == found
    with contextlib.suppress(ValueError):
        assert PublicKey.from_der(data).der == data


CASES = {case.__name__: case for case in (bundle, payload, policy, public_key)}

if __name__ == "__main__":
    run(CASES)
