"""Signatures of skills, and the policy that says whose are accepted.

`keys` makes and reads keys, `bundles` says what is signed, `policy` whose signatures count, `checking` which do.
"""

from __future__ import annotations

from skillpack.signing.checking import (
    Signature,
    find_signatures,
    policy_of_keys,
    require_trusted,
    sign_skill,
)
from skillpack.signing.keys import KeyInfo, PublicKey, find_public_key, list_keys, new_key, show_key
from skillpack.signing.policy import Policy, TrustedKey, set_policy, show_policy, trust, untrust

__all__ = [
    "KeyInfo",
    "Policy",
    "PublicKey",
    "Signature",
    "TrustedKey",
    "find_public_key",
    "find_signatures",
    "list_keys",
    "new_key",
    "policy_of_keys",
    "require_trusted",
    "set_policy",
    "show_key",
    "show_policy",
    "sign_skill",
    "trust",
    "untrust",
]
