"""Signing skills, and finding out which signatures of a skill hold.

Everything about a signature comes from whoever could write the store or the archive that it came in, so nothing is
believed before the signature over it has been checked with a key that the user named. One bad signature among several
harms nothing, or else anybody could make a skill unusable by attaching one; it is listed with what is wrong with it.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skillpack.errors import NotTrustedError, StoreError, TrustWarning, listing
from skillpack.signing.bundles import ANNOTATIONS, BUNDLE_LIMIT, BUNDLE_TYPE, Bundle, make_bundle
from skillpack.signing.keys import PublicKey, find_public_key, open_private_key, private_key_file
from skillpack.signing.policy import Policy, TrustedKey, show_policy, today
from skillpack_store import digest_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from skillpack_store import Descriptor, Repository


@dataclass(frozen=True)
class Signature:
    """A signature of a skill, and whether it counts.

    Attributes:
        digest: of the attachment that holds it.
        key_id: of the key that it says it is by; empty if it cannot be read.
        signer: whose key that is by the policy, or the name given with ``--key``; empty if not known.
        name: of the skill that it is about; empty if it cannot be read.
        problem: why it does not count; empty if it does.
    """

    digest: str
    key_id: str
    signer: str
    name: str
    problem: str

    def __str__(self) -> str:
        who = self.signer or (f"key {self.key_id[:16]}" if self.key_id else f"attachment {self.digest[:19]}")
        return f"{who}: {self.problem or 'holds'}"


def sign_skill(
    repository: Repository, skill: Descriptor, name: str, key: str | Path, password: str | None
) -> Signature:
    """Sign a skill and attach the signature to it; see `skillpack.sign`."""
    private, public = open_private_key(private_key_file(key), password)
    bundle = make_bundle(private, public, skill.digest, name)
    title = f"{digest_of(bundle).replace(':', '-')}.sigstore.json"
    attached = repository.attach(skill, BUNDLE_TYPE, [(bundle, BUNDLE_TYPE, title)], ANNOTATIONS)
    return Signature(attached.digest, public.id, str(key), name, "")


def find_signatures(repository: Repository, digest: str, name: str, policy: Policy) -> list[Signature]:
    """Look at every signature of a skill.

    Args:
        repository: where it is.
        digest: of the skill.
        name: under which it is about to be used.
        policy: the keys that count; its mode makes no difference.
    """
    entries = [entry for entry in repository.referrers(digest) if entry.artifact_type == BUNDLE_TYPE]
    examining = _Examining(repository, digest, name, policy, set())
    return [examining.examined(entry) for entry in entries]


def require_trusted(repository: Repository, digest: str, name: str, policy: Policy | None = None) -> None:
    """Refuse a skill, or warn, as the policy says.

    Args:
        repository: where it is.
        digest: of the skill.
        name: under which it is about to be used.
        policy: the user's own by default.

    Raises:
        NotTrustedError: the policy requires a signature and none counts.
    """
    policy = show_policy() if policy is None else policy
    if policy.mode == "off":
        return
    found = find_signatures(repository, digest, name, policy)
    if any(not signature.problem for signature in found):
        return
    error = _refusal(digest, name, policy, found)
    if policy.mode == "require":
        raise error
    warnings.warn(error.message, TrustWarning, stacklevel=3)


def policy_of_keys(keys: Sequence[str | Path]) -> Policy:
    """A policy that requires a signature by one of these keys and asks for nothing else.

    Raises:
        UsageError: one is not there or no key.
    """
    named: dict[PublicKey, str] = {}
    for key in keys:
        named.setdefault(find_public_key(key), str(key))
    return Policy("require", tuple(TrustedKey(name, key) for key, name in named.items()))


@dataclass(frozen=True)
class _Examining:
    """Looks at the signatures of one skill, one after another."""

    repository: Repository
    digest: str
    name: str
    policy: Policy
    seen: set[tuple[str, bytes]]

    def examined(self, entry: Descriptor) -> Signature:
        try:
            bundle = self.read(entry)
        except (ValueError, StoreError) as error:
            return Signature(entry.digest, "", "", "", f"cannot be used: {error}")
        trusted = self.policy.key(bundle.key_id)
        problem = self.problem(bundle, trusted)
        # A copy of a signature that was put into another attachment says nothing that the first did not.
        if not problem and (bundle.key_id, bundle.signed) in self.seen:
            problem = "the same key's signature of the same skill is there already"
        elif not problem:
            self.seen.add((bundle.key_id, bundle.signed))
        return Signature(entry.digest, bundle.key_id, trusted.name if trusted else "", bundle.name, problem)

    def read(self, entry: Descriptor) -> Bundle:
        attachment = self.repository.attachment(entry.digest)
        if attachment.subject.digest != self.digest:
            raise ValueError("it is attached to another skill")
        if attachment.artifact_type != BUNDLE_TYPE or [file.media_type for file in attachment.files] != [BUNDLE_TYPE]:
            raise ValueError("it does not consist of one Sigstore bundle")
        return Bundle.parse(self.repository.blobs.read(attachment.files[0].digest, limit=BUNDLE_LIMIT))

    def problem(self, bundle: Bundle, trusted: TrustedKey | None) -> str:
        if trusted is None:
            return "nobody whom you trust has this key"
        if not trusted.key.verifies(bundle.signature, bundle.signed):
            return "is forged or damaged: the key did not sign these bytes"
        if bundle.digest != self.digest:
            return f"is of another skill, {bundle.digest[:19]}"
        if bundle.name != self.name:
            return f"is of a skill called {bundle.name}, not {self.name}"
        return trusted.objection(self.name, today())


def _refusal(digest: str, name: str, policy: Policy, found: Sequence[Signature]) -> NotTrustedError:
    signers = policy.signers(name)
    missing = f"a signature by {listing(signers)} is missing" if signers else "your policy trusts nobody for it"
    problems = [str(signature) for signature in found]
    seen = f"; found: {listing(problems)}" if problems else "; it has no signature at all"
    return NotTrustedError(
        f"The skill {name} ({digest[:19]}) is not trusted: {missing}{seen}",
        problems=problems,
        hint="Get it from somebody whom you trust, or trust who signed it: skillpack policy trust KEY --name WHO",
    )
