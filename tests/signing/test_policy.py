"""The policy file: strict, never guessed, and changed by commands."""

from __future__ import annotations

import base64
import json
import os

import pytest

from skillpack.errors import SkillPackError, UsageError
from skillpack.signing import Policy, TrustedKey, find_public_key, set_policy, show_policy, trust, untrust


def test_without_a_file_nobody_looks():
    assert show_policy() == Policy("off", ())


def test_the_file_comes_back(ada, bob, home):
    trust("bob", "Bob")
    trust(ada.path, "Ada", skills=["math-*", "code"], expires="2027-01-31")
    set_policy("require")
    policy = show_policy()
    assert policy.mode == "require"
    assert [key.name for key in policy.keys] == ["Ada", "Bob"]
    assert policy.keys[0] == TrustedKey("Ada", find_public_key("ada"), ("math-*", "code"), "2027-01-31")
    assert Policy.load(policy.dump()) == policy
    assert json.loads((home / "policy.json").read_text())["keys"][0] == {
        "name": "Ada",
        "key": base64.b64encode(find_public_key("ada").der).decode(),
        "skills": ["math-*", "code"],
        "expires": "2027-01-31",
        "revoked": False,
    }


def test_trust_again_replaces(ada):
    trust("ada", "Ada", skills=["a"])
    trust("ada", "Ada", skills=["b"], expires="2030-01-01")
    assert [(key.skills, key.expires) for key in show_policy().keys] == [(("b",), "2030-01-01")]


def test_a_name_and_a_key_belong_together(ada, bob):
    trust("ada", "Ada")
    for key, name in (("bob", "Ada"), ("ada", "Eve")):
        with pytest.raises(SkillPackError, match=r"Ada is trusted with the key .* already"):
            trust(key, name)
    assert [key.name for key in show_policy().keys] == ["Ada"]


def test_untrust_takes_a_key_out_and_revoke_keeps_it_out(ada):
    trust("ada", "Ada")
    assert untrust("Ada").name == "Ada"
    assert show_policy().keys == ()
    trust("ada", "Ada")
    assert untrust(ada.key_id[:12], revoke=True).revoked
    with pytest.raises(SkillPackError, match="was revoked"):
        trust("ada", "Ada")
    untrust("Ada")
    trust("ada", "Ada")
    assert not show_policy().keys[0].revoked


def test_untrust_of_nobody(ada):
    trust("ada", "Ada")
    for name in ("Eve", ada.key_id[:4], ""):
        with pytest.raises(UsageError, match="not in your policy") as caught:
            untrust(name)
        assert "Ada" in caught.value.hint


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("", {}, "whose key"),
        ("A\u202edA", {}, "whose key"),
        ("\u0410da", {}, "whose key"),
        ("A" * 101, {}, "whose key"),
        ("Ada", {"skills": []}, "patterns"),
        ("Ada", {"skills": ["Math"]}, "patterns"),
        ("Ada", {"skills": ["[a-z]"]}, "patterns"),
        ("Ada", {"expires": "tomorrow"}, "2027-01-31"),
        ("Ada", {"expires": "20270131"}, "2027-01-31"),
        ("Ada", {"expires": "2027-02-30"}, "2027-01-31"),
    ],
)
def test_what_cannot_be_trusted(name, arguments, message, ada, home):
    with pytest.raises(UsageError, match=message):
        trust("ada", name, **arguments)
    assert not (home / "policy.json").exists()


def test_a_mode_that_is_none(home):
    with pytest.raises(UsageError, match="no mode"):
        set_policy("Require")
    assert not (home / "policy.json").exists()


def test_when_a_key_counts(ada):
    key = TrustedKey("Ada", find_public_key("ada"), ("math-*", "co?e"), "2026-06-01")
    assert [key.objection(name, "2026-05-31") for name in ("math-", "math-7b", "code")] == [""] * 3
    assert key.objection("math", "2026-05-31") == "Ada is trusted for math-*, co?e, not for math"
    assert key.objection("code", "2026-06-01") == "the key of Ada expired on 2026-06-01"


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"mode": "Require"},
        {"mode": None},
        {"keys": {}},
        {"more": 1},
        {"keys": [{}]},
        {"keys": [3]},
        {"keys": "twice"},
        {"name": ""},
        {"name": 3},
        {"key": "AA=="},
        {"key": "not base64!"},
        {"key": None},
        {"skills": "*"},
        {"skills": [3]},
        {"skills": []},
        {"expires": 2027},
        {"revoked": 0},
        {"revoked": None},
        {"extra": 1},
    ],
)
def test_a_damaged_policy_is_never_guessed(change, ada, home):
    trust("ada", "Ada")
    document = json.loads((home / "policy.json").read_text())
    if change.keys() <= {"format", "mode", "keys", "more"}:
        document |= {"keys": document["keys"] * 2} if change.get("keys") == "twice" else change
    else:
        document["keys"][0] |= change
    (home / "policy.json").write_text(json.dumps(document))
    with pytest.raises(SkillPackError, match=r"policy\.json is damaged"):
        show_policy()
    with pytest.raises(SkillPackError, match=r"policy\.json is damaged"):
        set_policy("off")


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b'{"format":1,"format":1}', b"[" * 10**5, b" " * (5 << 20)])
def test_files_that_are_no_policy(content, home):
    home.mkdir()
    (home / "policy.json").write_bytes(content)
    with pytest.raises(SkillPackError, match=r"policy\.json is damaged"):
        show_policy()


@pytest.mark.skipif(os.name != "posix", reason="permissions are those of POSIX")
@pytest.mark.parametrize("mode", [0o664, 0o646])
def test_a_policy_that_others_may_write_is_refused(mode, home):
    set_policy("require")
    (home / "policy.json").chmod(mode)
    with pytest.raises(SkillPackError, match="Others may write your policy"):
        show_policy()
