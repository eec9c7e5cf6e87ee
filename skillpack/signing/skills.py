"""Signing skills of a library by address, and listing their signatures."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skillpack.signing.checking import Signature, find_signatures, policy_of_keys, sign_skill
from skillpack.signing.policy import show_policy
from skillpack.skill import open_skill
from skillpack.summaries import StoreLike, open_existing

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from skillpack.summaries import SkillSummary


def sign(
    addresses: Sequence[str] | str,
    key: str | Path,
    *,
    password: str | None = None,
    store: StoreLike = None,
    branch: str = "main",
) -> list[Signature]:
    """Sign skills: say with a key of yours that these bytes are what you call by this name.

    The signature is attached to the skill, whose digest stays the same, and goes wherever the skill goes. Signing again
    with the same key changes nothing.

    Args:
        addresses: one or several; every byte of each is checked first.
        key: one of your own keys, or the file of a private key (Ed25519, PKCS#8 in PEM).
        password: of the key, if it has one.
        store: where the skills are.
        branch: branch of the library.

    Raises:
        UsageError: there is no such key, or the password is wrong.
        NotFoundError: there is no such skill.
        CorruptStoreError: it is damaged, and not signed.
    """
    repository = open_existing(store)
    wanted = [addresses] if isinstance(addresses, str) else addresses
    found = [repository.resolve(address, branch) for address in wanted]
    for skill in found:
        open_skill(repository, skill.descriptor.digest, skill.name)
    return [sign_skill(repository, skill.descriptor, skill.name, key, password) for skill in found]


def signatures(
    address: str, *, keys: Sequence[str | Path] = (), store: StoreLike = None, branch: str = "main"
) -> list[Signature]:
    """Every signature of a skill, and whether it counts.

    Args:
        address: of the skill.
        keys: public keys (files, or names of your own) that count; by default those of your policy.
        store: where the skill is.
        branch: branch of the library.

    Raises:
        NotFoundError: there is no such skill.
        UsageError: a key is not there.
    """
    repository = open_existing(store)
    found = repository.resolve(address, branch)
    policy = policy_of_keys(keys) if keys else show_policy()
    return find_signatures(repository, found.descriptor.digest, found.name, policy)


def signers_of(skill: SkillSummary, *, keys: Sequence[str | Path] = (), store: StoreLike = None) -> list[str]:
    """Names of those whose signatures of a skill count.

    Args:
        skill: which, wherever in the history it is.
        keys: see `signatures`.
        store: where the skill is.
    """
    policy = policy_of_keys(keys) if keys else show_policy()
    found = find_signatures(open_existing(store), skill.digest, skill.name, policy)
    return [signature.signer for signature in found if not signature.problem]
