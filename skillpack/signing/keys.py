"""Keys: Ed25519 (RFC 8032), kept as PEM files that openssl and other tools read.

A public key is named by the SHA-256 of its SubjectPublicKeyInfo (DER), in hexadecimal: its key id.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from skillpack.errors import SkillPackError, UsageError, listing
from skillpack.settings import keys_folder
from skillpack_store import disk

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

PRIVATE: Final = ".key"
PUBLIC: Final = ".pub"
_NAME: Final = re.compile(r"[A-Za-z0-9]+(?:[._-][A-Za-z0-9]+)*")
_NAME_LIMIT: Final = 64
_RESERVED: Final = re.compile(r"(?i)con|prn|aux|nul|com[0-9]|lpt[0-9]")
_FILE_LIMIT: Final = 16 << 10  # bytes
_OTHERS: Final = 0o077


@dataclass(frozen=True)
class PublicKey:
    """A public key.

    Attributes:
        der: its SubjectPublicKeyInfo (RFC 8410), 44 bytes.
    """

    der: bytes

    @classmethod
    def from_pem(cls, data: bytes, source: str) -> PublicKey:
        """Read a PEM file.

        Args:
            data: its content.
            source: where it is from, for messages.

        Raises:
            UsageError: it is not a public Ed25519 key.
        """
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        try:
            return cls._of(load_pem_public_key(data))
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            hint = f"The public half of a key that skillpack key new makes ends in {PUBLIC}."
            raise UsageError(f"{source} is not a public Ed25519 key in PEM form", hint=hint) from error

    @classmethod
    def from_der(cls, data: bytes) -> PublicKey:
        """Read a SubjectPublicKeyInfo; raises ``ValueError`` if it is not that of an Ed25519 key in its one form."""
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import load_der_public_key

        try:
            key = cls._of(load_der_public_key(data))
        except (TypeError, UnsupportedAlgorithm) as error:
            raise ValueError("not an Ed25519 key") from error
        if key.der != data:
            raise ValueError("not the one form of an Ed25519 key")
        return key

    @classmethod
    def _of(cls, key: object) -> PublicKey:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        if not isinstance(key, Ed25519PublicKey):
            raise TypeError("not an Ed25519 key")
        return cls(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))

    @property
    def id(self) -> str:
        """Its key id: 64 hexadecimal digits."""
        return hashlib.sha256(self.der).hexdigest()

    @property
    def hint(self) -> str:
        """The same hash as a Sigstore bundle has it, in base64."""
        return base64.b64encode(hashlib.sha256(self.der).digest()).decode()

    def pem(self) -> str:
        """The key as a PEM file."""
        body = base64.b64encode(self.der).decode()
        return f"-----BEGIN PUBLIC KEY-----\n{body}\n-----END PUBLIC KEY-----\n"

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Whether ``signature`` (64 bytes) of ``message`` is by this key."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_der_public_key

        key = load_der_public_key(self.der)
        if not isinstance(key, Ed25519PublicKey):
            raise TypeError("not an Ed25519 key")
        try:
            key.verify(signature, message)
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True)
class KeyInfo:
    """A key of the user's own.

    Attributes:
        name: under which it is kept.
        key_id: SHA-256 of its public half, 64 hexadecimal digits.
        public: the public half, PEM.
        path: the file of the public half; the private one is beside it.
        encrypted: the private half is kept under a password.
    """

    name: str
    key_id: str
    public: str
    path: Path
    encrypted: bool


def new_key(name: str, *, password: str | None = None) -> KeyInfo:
    """Make a key of your own, to sign skills with.

    The private half goes to ``NAME.key`` in the user's folder of keys, PKCS#8 in PEM that only its owner may read; the
    public half, which others need to check signatures, to ``NAME.pub``.

    Args:
        name: for the key: letters and digits with single dots, dashes or underscores between them.
        password: encrypts the private half; none or an empty one leaves it readable for whoever can read the file.

    Raises:
        UsageError: the name cannot be one, or there is such a key.
        OSError: the folder cannot be written.
    """
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    protection: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password:
        protection = serialization.BestAvailableEncryption(password.encode())
    pem = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)
    path = keys_folder() / f"{_check_name(name)}{PRIVATE}"
    disk.make_directory(path.parent)
    if not disk.write_exclusive(path, [pem], mode=0o600):
        raise UsageError(f"There is a key {name} already ({path})", hint="Choose another name.")
    public = PublicKey._of(private.public_key())  # noqa: SLF001 - of this module
    disk.replace(path.with_suffix(PUBLIC), [public.pem().encode()])
    return show_key(name)


def list_keys() -> list[KeyInfo]:
    """Your own keys, sorted by name."""
    folder = keys_folder()
    names = sorted(path.stem for path in folder.glob(f"*{PRIVATE}")) if folder.is_dir() else []
    return [show_key(name) for name in names if _is_name(name)]


def show_key(name: str) -> KeyInfo:
    """One of your own keys.

    Raises:
        UsageError: there is none of that name.
    """
    private = keys_folder() / f"{_check_name(name)}{PRIVATE}"
    public = private.with_suffix(PUBLIC)
    if not private.is_file():
        names = [path.stem for path in sorted(private.parent.glob(f"*{PRIVATE}"))]
        hint = f"Your keys: {listing(names)}." if names else "Make one: skillpack key new NAME"
        raise UsageError(f"You have no key {name}", hint=hint)
    if not public.is_file():
        raise SkillPackError(
            f"The public half of key {name} is missing ({public})",
            hint=f"openssl pkey -in {private} -pubout -out {public}",
        )
    key = PublicKey.from_pem(_read(public), str(public))
    return KeyInfo(name, key.id, key.pem(), public, b"ENCRYPTED" in _read(private).partition(b"\n")[0])


def find_public_key(key: str | Path) -> PublicKey:
    """A public key by the name of one of your own, or by its file (PEM).

    Raises:
        UsageError: there is neither.
    """
    text = str(key)
    if _is_name(text) and (keys_folder() / f"{text}{PRIVATE}").is_file():
        return PublicKey.from_pem(show_key(text).public.encode(), text)
    if not Path(key).is_file():
        hint = (
            f"Give the file of a public key, or one of your own: {listing(own.name for own in list_keys()) or 'none'}."
        )
        raise UsageError(f"There is no key {text}", hint=hint)
    return PublicKey.from_pem(_read(Path(key)), text)


def private_key_file(key: str | Path) -> Path:
    """The file of a private key, by the name of one of your own or by itself.

    Raises:
        UsageError: there is neither.
    """
    text = str(key)
    if _is_name(text) and (own := keys_folder() / f"{text}{PRIVATE}").is_file():
        return own
    if not Path(key).is_file():
        hint = f"Your keys: {listing(own.name for own in list_keys()) or 'none'}. Make one: skillpack key new NAME"
        raise UsageError(f"There is no key {text}", hint=hint)
    return Path(key)


def is_encrypted(path: Path) -> bool:
    """Whether a private key's file needs a password."""
    return b"-----BEGIN ENCRYPTED PRIVATE KEY-----" in _read(path)


def open_private_key(path: Path, password: str | None) -> tuple[Ed25519PrivateKey, PublicKey]:
    """Read a private key.

    Args:
        path: PKCS#8 in PEM.
        password: of it; not looked at where the key has none.

    Returns:
        Both halves.

    Raises:
        UsageError: it is no Ed25519 key, or the password is wrong or missing.
        SkillPackError: others may read the file.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    if os.name == "posix" and path.stat().st_mode & _OTHERS:
        raise SkillPackError(f"Others may read the private key {path}", hint=f"chmod 600 {path}")
    encrypted = is_encrypted(path)
    if encrypted and not password:
        raise UsageError(f"The key {path} needs a password")
    try:
        key = load_pem_private_key(_read(path), password.encode() if encrypted and password else None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        if encrypted:
            raise UsageError(f"This is not the password of {path}, or the file is damaged") from error
        raise UsageError(f"{path} is not a private key in PEM form (PKCS#8)") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"{path} is not an Ed25519 key", hint="Make one: skillpack key new NAME")
    return key, PublicKey._of(key.public_key())  # noqa: SLF001 - of this module


def _is_name(name: str) -> bool:
    return (
        _NAME.fullmatch(name) is not None
        and len(name) <= _NAME_LIMIT
        and _RESERVED.fullmatch(name.partition(".")[0]) is None
    )


def _check_name(name: str) -> str:
    if _is_name(name):
        return name
    raise UsageError(
        f"{name[:80]!r} cannot be the name of a key",
        hint="Use letters and digits with single dots, dashes or underscores between them, such as ada or ada-2026.",
    )


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        data = file.read(_FILE_LIMIT + 1)
    if len(data) > _FILE_LIMIT:
        raise UsageError(f"{path} is too long to be a key")
    return data
