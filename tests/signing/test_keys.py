"""Keys: PEM files that openssl reads, private ones for their owner alone."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from skillpack.errors import SkillPackError, UsageError
from skillpack.signing import PublicKey, find_public_key, list_keys, new_key, show_key
from skillpack.signing.keys import is_encrypted, open_private_key, private_key_file

needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl program")


def openssl(*arguments, data=None):
    return subprocess.run(["openssl", *map(str, arguments)], input=data, capture_output=True, check=True).stdout


def test_a_key_is_two_files_the_private_one_for_its_owner_alone(home):
    previous = os.umask(0)
    try:
        key = new_key("ada")
    finally:
        os.umask(previous)
    private = home / "keys" / "ada.key"
    assert private.stat().st_mode & 0o777 == 0o600
    assert key.path == home / "keys" / "ada.pub"
    assert key.path.read_text() == key.public
    assert private.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----\n")
    assert sorted(path.name for path in private.parent.iterdir()) == ["ada.key", "ada.pub"]
    assert (key.name, key.encrypted, len(key.key_id)) == ("ada", False, 64)
    assert list_keys() == [key]
    assert show_key("ada") == key


@needs_openssl
def test_openssl_reads_both_halves(ada, home):
    assert openssl("pkey", "-in", home / "keys" / "ada.key", "-pubout").decode() == ada.public
    der = openssl("pkey", "-pubin", "-in", ada.path, "-outform", "DER")
    assert openssl("dgst", "-sha256", "-r", data=der).split()[0].decode() == ada.key_id


@needs_openssl
def test_a_key_that_openssl_made_can_be_used(tmp_path):
    path = tmp_path / "other.pem"
    path.write_bytes(openssl("genpkey", "-algorithm", "ed25519"))
    path.chmod(0o600)
    private, public = open_private_key(path, None)
    assert public.pem() == openssl("pkey", "-in", path, "-pubout").decode()
    assert public.verifies(private.sign(b"text"), b"text")


def test_a_password_protects_the_private_half(home):
    key = new_key("ada", password="secret é")
    path = private_key_file("ada")
    assert key.encrypted
    assert is_encrypted(path)
    assert open_private_key(path, "secret é")[1].id == key.key_id
    with pytest.raises(UsageError, match="needs a password"):
        open_private_key(path, None)
    with pytest.raises(UsageError, match="not the password"):
        open_private_key(path, "secret e")


def test_a_key_is_never_overwritten(ada, home):
    before = (home / "keys" / "ada.key").read_bytes()
    with pytest.raises(UsageError, match="already"):
        new_key("ada")
    assert (home / "keys" / "ada.key").read_bytes() == before
    assert show_key("ada") == ada


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../ada", "/ada", "a/b", "a\\b", "ada ", "ad\u0430", "a\u200bb", "CON", "nul.x", "a" * 65, "-"],
)
def test_names_that_no_key_can_have(name, home):
    with pytest.raises(UsageError, match="cannot be the name of a key"):
        new_key(name)
    assert not home.exists()


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_private_key_that_others_may_read_is_refused(mode, ada, home):
    path = home / "keys" / "ada.key"
    path.chmod(mode)
    with pytest.raises(SkillPackError, match="Others may read the private key") as caught:
        open_private_key(path, None)
    assert caught.value.hint == f"chmod 600 {path}"


def test_a_key_that_is_not_there(ada):
    for find in (find_public_key, private_key_file):
        with pytest.raises(UsageError, match="There is no key eve") as caught:
            find("eve")
        assert "ada" in caught.value.hint
    with pytest.raises(UsageError, match="You have no key eve"):
        show_key("eve")


def test_a_lost_public_half_says_how_to_get_it_back(ada):
    ada.path.unlink()
    with pytest.raises(SkillPackError, match="public half of key ada is missing") as caught:
        show_key("ada")
    assert caught.value.hint.startswith("openssl pkey -in ")


def other_pem(kind):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa

    private = {
        "ec": lambda: ec.generate_private_key(ec.SECP256R1()),
        "ed448": ed448.Ed448PrivateKey.generate,
        "rsa": lambda: rsa.generate_private_key(65537, 2048),
    }[kind]()
    none = serialization.NoEncryption()
    return (
        private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, none),
        private.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
    )


@pytest.mark.parametrize("kind", ["ec", "ed448", "rsa"])
def test_there_is_one_algorithm(kind, tmp_path):
    private, public = other_pem(kind)
    path = tmp_path / "key.pem"
    path.write_bytes(private)
    path.chmod(0o600)
    with pytest.raises(UsageError, match="not an Ed25519 key"):
        open_private_key(path, None)
    with pytest.raises(UsageError, match="not a public Ed25519 key"):
        PublicKey.from_pem(public, "it")


@pytest.mark.parametrize("content", [b"", b"-----BEGIN PUBLIC KEY-----\n", b"x" * 20_000, b"\xff\x00", "private"])
def test_files_that_are_no_public_key(content, tmp_path, ada, home):
    path = tmp_path / "key"
    path.write_bytes((home / "keys" / "ada.key").read_bytes() if content == "private" else content)
    with pytest.raises(UsageError, match=r"not a public Ed25519 key|too long"):
        find_public_key(path)


def test_a_public_key_has_one_form(ada):
    key = find_public_key("ada")
    assert PublicKey.from_der(key.der) == key
    for data in (key.der + b"\0", key.der[:-1], b"", b"\x30\x81" + key.der[1:]):
        with pytest.raises(ValueError, match=r"."):
            PublicKey.from_der(data)
