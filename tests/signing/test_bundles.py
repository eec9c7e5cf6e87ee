"""What is signed, byte for byte, and that programs of others agree."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skillpack.signing import find_public_key
from skillpack.signing.bundles import Bundle, make_bundle, pre_authentication_encoding, statement
from skillpack.signing.keys import open_private_key, private_key_file

DIGEST = f"sha256:{'0123456789abcdef' * 4}"


@pytest.fixture
def bundle(ada):
    private, public = open_private_key(private_key_file("ada"), None)
    return make_bundle(private, public, DIGEST, "math")


def parts(bundle):
    envelope = json.loads(bundle)["dsseEnvelope"]
    return base64.b64decode(envelope["payload"]), base64.b64decode(envelope["signatures"][0]["sig"])


def test_the_signed_bytes_are_those_that_are_documented(bundle):
    payload, _ = parts(bundle)
    assert payload == (
        b'{"_type":"https://in-toto.io/Statement/v1","predicate":{},"predicateType":"https://sigstore.dev/cosign/sign/v1",'
        b'"subject":[{"digest":{"sha256":"' + b"0123456789abcdef" * 4 + b'"},"name":"math"}]}'
    )
    assert payload == statement(DIGEST, "math")
    assert Bundle.parse(bundle).signed == b"DSSEv1 28 application/vnd.in-toto+json %d %s" % (len(payload), payload)


def test_a_bundle_comes_back_and_is_the_same_every_time(bundle, ada):
    found = Bundle.parse(bundle)
    assert (found.key_id, found.digest, found.name) == (ada.key_id, DIGEST, "math")
    assert find_public_key("ada").verifies(found.signature, found.signed)
    private, public = open_private_key(private_key_file("ada"), None)
    assert make_bundle(private, public, DIGEST, "math") == bundle


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl program")
def test_openssl_verifies_it(bundle, ada, tmp_path):
    payload, signature = parts(bundle)
    (tmp_path / "signed").write_bytes(pre_authentication_encoding(payload))
    (tmp_path / "forged").write_bytes(pre_authentication_encoding(payload.replace(b"math", b"meth")))
    (tmp_path / "signature").write_bytes(signature)

    def verify(signed):
        command = ["openssl", "pkeyutl", "-verify", "-pubin", "-inkey", ada.path, "-rawin", "-in", tmp_path / signed]
        return subprocess.run([*command, "-sigfile", tmp_path / "signature"], capture_output=True, check=False)

    assert verify("signed").returncode == 0
    assert verify("forged").returncode != 0


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl program")
def test_the_documented_commands_verify_it(bundle, ada, tmp_path):
    page = Path(__file__).parents[2] / "docs" / "threat-model.md"
    (script,) = re.findall(r"```bash\n(.*?)```", page.read_text(), re.DOTALL)
    payload, signature = parts(bundle)
    (tmp_path / "payload").write_bytes(payload)
    (tmp_path / "sig").write_bytes(signature)
    shutil.copy(ada.path, tmp_path / "ada.pub")
    done = subprocess.run(["bash", "-e", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "Signature Verified Successfully\n")
    assert (tmp_path / "signed").read_bytes() == Bundle.parse(bundle).signed
    (tmp_path / "payload").write_bytes(payload + b" ")
    assert subprocess.run(["bash", "-e", "-c", script], cwd=tmp_path, capture_output=True, check=False).returncode != 0


def test_securesystemslib_verifies_the_envelope(bundle, ada):
    """The library of the in-toto and TUF projects, with a reader of DSSE of its own."""
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import VerificationError
    from securesystemslib.signer import SSlibKey

    raw = find_public_key("ada").der[-32:].hex()
    key = SSlibKey(ada.key_id, "ed25519", "ed25519", {"public": raw})
    document = json.loads(bundle)["dsseEnvelope"]
    assert list(Envelope.from_dict(document).verify([key], 1)) == [ada.key_id]
    forged = json.loads(bundle)["dsseEnvelope"]
    forged["payload"] = base64.b64encode(statement(DIGEST, "meth")).decode()
    with pytest.raises(VerificationError):
        Envelope.from_dict(forged).verify([key], 1)


def test_sigstore_reads_the_bundle(bundle, ada):
    """The data model of the Sigstore project."""
    from sigstore_models.bundle.v1 import Bundle as Model

    model = Model.from_json(bundle)
    assert model.media_type == json.loads(bundle)["mediaType"]
    assert base64.b64decode(model.verification_material.public_key.hint).hex() == ada.key_id
    assert model.dsse_envelope is not None
    assert bytes(model.dsse_envelope.payload) == statement(DIGEST, "math")
    assert hashlib.sha256(find_public_key("ada").der).hexdigest() == ada.key_id


def changed(bundle, path, value):
    document = json.loads(bundle)
    place = document
    for key in path[:-1]:
        place = place[key]
    if value is None:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return json.dumps(document).encode()


def encoded(payload):
    return base64.b64encode(json.dumps(payload).encode()).decode()


STATEMENT = json.loads(statement(DIGEST, "math"))
PAYLOAD = ("dsseEnvelope", "payload")
SIGNATURES = ("dsseEnvelope", "signatures")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("mediaType",), "application/vnd.dev.sigstore.bundle+json;version=0.2", "not that of a Sigstore bundle"),
        (("mediaType",), None, "mediaType is missing"),
        (("verificationMaterial",), {"certificate": {"rawBytes": ""}}, "publicKey is missing"),
        (("verificationMaterial", "publicKey", "hint"), "YWRh", "hint is not the SHA-256"),
        (("verificationMaterial", "publicKey", "hint"), "not base64", "not base64"),
        (("verificationMaterial", "publicKey", "hint"), "\u0430" * 44, "not base64"),
        (("dsseEnvelope",), None, "dsseEnvelope is missing"),
        (("dsseEnvelope", "payloadType"), "application/json", "not an in-toto statement"),
        (SIGNATURES, [], "0 signatures instead of one"),
        (SIGNATURES, [{"sig": "AA=="}] * 2, "2 signatures instead of one"),
        (SIGNATURES, [3], "sig is missing"),
        ((*SIGNATURES, 0, "sig"), "AA==", "1 bytes instead of 64"),
        ((*SIGNATURES, 0, "sig"), "A" * 86 + "B=", "base64"),
        (PAYLOAD, "e30=", "_type is missing"),
        (PAYLOAD, base64.b64encode(b"{}}").decode(), "Extra data"),
        (PAYLOAD, base64.b64encode(b'{"a":1,"a":1}').decode(), "there twice"),
        (PAYLOAD, base64.b64encode(b"[" * 5000).decode(), "nested too deeply"),
        (PAYLOAD, encoded({**STATEMENT, "predicateType": "https://slsa.dev/provenance/v1"}), "not that of a signature"),
        (PAYLOAD, encoded({**STATEMENT, "_type": "https://in-toto.io/Statement/v0.1"}), "not that of a signature"),
        (PAYLOAD, encoded({**STATEMENT, "subject": []}), "0 subjects instead of one"),
        (PAYLOAD, encoded({**STATEMENT, "subject": STATEMENT["subject"] * 2}), "2 subjects instead of one"),
        (PAYLOAD, encoded({**STATEMENT, "subject": [{"name": "math", "digest": {"md5": "0"}}]}), "sha256 is missing"),
        (PAYLOAD, encoded({**STATEMENT, "subject": [{**STATEMENT["subject"][0], "name": "../x"}]}), "name of a skill"),
        (
            PAYLOAD,
            encoded({**STATEMENT, "subject": [{**STATEMENT["subject"][0], "name": "m\u0430th"}]}),
            "name of a skill",
        ),
        (PAYLOAD, encoded({**STATEMENT, "subject": [{"digest": {"sha256": "0" * 64}}]}), "name is missing"),
        (PAYLOAD, encoded({**STATEMENT, "subject": [{"digest": {"sha256": "A" * 64}, "name": "a"}]}), "not a digest"),
    ],
)
def test_malformed_bundles(path, value, message, bundle):
    with pytest.raises(ValueError, match=message):
        Bundle.parse(changed(bundle, path, value))


def test_a_signature_has_one_form(bundle):
    text = json.loads(bundle)["dsseEnvelope"]["signatures"][0]["sig"]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    other = text[:85] + alphabet[alphabet.index(text[85]) ^ 1] + "=="
    assert base64.b64decode(other) == base64.b64decode(text)
    with pytest.raises(ValueError, match="one form"):
        Bundle.parse(changed(bundle, (*SIGNATURES, 0, "sig"), other))


def test_a_bundle_that_is_too_long(bundle):
    with pytest.raises(ValueError, match="more than the 65536"):
        Bundle.parse(bundle + b" " * 65536)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_bundle_or_an_error(data):
    with pytest.raises(ValueError, match=r"."):
        Bundle.parse(data)
