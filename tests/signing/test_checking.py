"""Which signatures count: every way in which one can be wrong has a message of its own."""

from __future__ import annotations

import base64
import json

import pytest

from skillpack.errors import NotTrustedError, TrustWarning
from skillpack.signing import (
    find_signatures,
    policy_of_keys,
    require_trusted,
    set_policy,
    show_policy,
    sign_skill,
    trust,
    untrust,
)
from skillpack.signing import policy as policy_module
from skillpack.signing.bundles import BUNDLE_TYPE, make_bundle, statement
from skillpack.signing.keys import open_private_key, private_key_file
from skillpack_store import Descriptor, Repository, digest_of, export_archive, import_archive, import_referrers
from skillpack_store.documents import Attachment
from skillpack_store.referrers import enlist
from tests.store.skills import put_skill


def bundle_of(key, digest, name):
    return make_bundle(*open_private_key(private_key_file(key), None), digest, name)


def problems(repository, skill, name="math"):
    return [signature.problem for signature in find_signatures(repository, skill.digest, name, show_policy())]


@pytest.fixture
def trusted(ada):
    trust("ada", "Ada")
    set_policy("require")


@pytest.mark.usefixtures("trusted")
def test_a_signature_by_a_trusted_key_counts(repository, skill):
    made = sign_skill(repository, skill, "math", "ada", None)
    (found,) = find_signatures(repository, skill.digest, "math", show_policy())
    assert (found.digest, found.key_id, found.signer, found.name, found.problem) == (
        made.digest, made.key_id, "Ada", "math", "",
    )  # fmt: skip
    require_trusted(repository, skill.digest, "math")
    attachment = repository.attachment(made.digest)
    assert attachment.artifact_type == BUNDLE_TYPE
    (file,) = attachment.files
    assert file.annotations["org.opencontainers.image.title"] == f"{file.digest.replace(':', '-')}.sigstore.json"
    assert attachment.annotations == {
        "dev.sigstore.bundle.content": "dsse-envelope",
        "dev.sigstore.bundle.predicateType": "https://sigstore.dev/cosign/sign/v1",
    }


@pytest.mark.usefixtures("trusted")
def test_signing_again_changes_nothing(repository, skill):
    before = sign_skill(repository, skill, "math", "ada", None)
    assert sign_skill(repository, skill, "math", "ada", None) == before
    assert len(repository.referrers(skill.digest)) == 1


def test_with_the_mode_off_nobody_looks(repository, skill):
    require_trusted(repository, skill.digest, "math")


@pytest.mark.usefixtures("trusted")
def test_a_skill_without_a_signature_says_whose_is_missing(repository, skill):
    with pytest.raises(NotTrustedError, match="a signature by Ada is missing; it has no signature at all") as caught:
        require_trusted(repository, skill.digest, "math")
    assert caught.value.exit_code == 14
    assert "skillpack policy trust" in caught.value.hint


def test_a_policy_that_trusts_nobody_says_so(repository, skill):
    set_policy("require")
    with pytest.raises(NotTrustedError, match="your policy trusts nobody for it"):
        require_trusted(repository, skill.digest, "math")


@pytest.mark.usefixtures("trusted")
def test_warn_takes_it_with_a_warning(repository, skill):
    set_policy("warn")
    with pytest.warns(TrustWarning, match="a signature by Ada is missing"):
        require_trusted(repository, skill.digest, "math")
    sign_skill(repository, skill, "math", "ada", None)
    require_trusted(repository, skill.digest, "math")


@pytest.mark.usefixtures("trusted", "bob")
def test_by_an_unknown_key(repository, skill):
    sign_skill(repository, skill, "math", "bob", None)
    assert problems(repository, skill) == ["nobody whom you trust has this key"]
    with pytest.raises(NotTrustedError, match=r"found: key [0-9a-f]{16}: nobody whom you trust has this key") as caught:
        require_trusted(repository, skill.digest, "math")
    assert len(caught.value.problems) == 1


@pytest.mark.usefixtures("trusted", "bob")
def test_by_an_unknown_key_that_claims_to_be_a_trusted_one(attach, skill):
    forged = json.loads(bundle_of("bob", skill.digest, "math"))
    forged["verificationMaterial"] = json.loads(bundle_of("ada", skill.digest, "math"))["verificationMaterial"]
    assert attach(json.dumps(forged).encode()) == "is forged or damaged: the key did not sign these bytes"


@pytest.mark.usefixtures("trusted")
def test_with_a_swapped_payload(attach, repository, skill):
    other = put_skill(repository, "other")
    forged = json.loads(bundle_of("ada", other.digest, "other"))
    forged["dsseEnvelope"]["payload"] = base64.b64encode(statement(skill.digest, "math")).decode()
    assert attach(json.dumps(forged).encode()) == "is forged or damaged: the key did not sign these bytes"


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("byte", [0, 31, 32, 63])
def test_with_one_bit_changed(byte, attach, skill):
    forged = json.loads(bundle_of("ada", skill.digest, "math"))
    (place,) = forged["dsseEnvelope"]["signatures"]
    signature = bytearray(base64.b64decode(place["sig"]))
    signature[byte] ^= 1
    place["sig"] = base64.b64encode(signature).decode()
    assert attach(json.dumps(forged).encode()).startswith("is forged or damaged")


@pytest.mark.usefixtures("trusted")
def test_replayed_on_another_skill(attach, repository, skill):
    other = put_skill(repository, "other")
    bundle = bundle_of("ada", other.digest, "math")
    assert attach(bundle) == f"is of another skill, {other.digest[:19]}"


@pytest.mark.usefixtures("trusted")
def test_replayed_under_another_name(repository, skill):
    sign_skill(repository, skill, "poetry", "ada", None)
    assert problems(repository, skill) == ["is of a skill called poetry, not math"]
    assert problems(repository, skill, "poetry") == [""]


@pytest.mark.usefixtures("trusted")
def test_listed_for_a_skill_that_is_not_its_subject(repository, skill):
    other = put_skill(repository, "other")
    made = sign_skill(repository, other, "math", "ada", None)
    (entry,) = repository.referrers(other.digest)
    enlist(repository, skill.digest, entry)
    assert problems(repository, skill) == ["cannot be used: it is attached to another skill"]
    assert made.digest == entry.digest


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"x" * (65 << 10)])
def test_malformed(content, attach):
    assert attach(content).startswith("cannot be used: ")


@pytest.mark.usefixtures("trusted")
def test_made_of_other_files_than_one_bundle(repository, skill):
    bundle = bundle_of("ada", skill.digest, "math")
    repository.attach(skill, BUNDLE_TYPE, [(bundle, "text/plain", "a")])
    repository.attach(skill, BUNDLE_TYPE, [(bundle, BUNDLE_TYPE, "a")] * 2)
    repository.attach(skill, BUNDLE_TYPE, [])
    assert problems(repository, skill) == ["cannot be used: it does not consist of one Sigstore bundle"] * 3


@pytest.mark.usefixtures("trusted")
def test_listed_as_a_signature_without_being_one(repository, skill):
    data = Attachment("application/vnd.other", skill, [], {}).build()
    put = repository.blobs.put([data])
    enlist(repository, skill.digest, Descriptor(put.digest, put.size, skill.media_type, BUNDLE_TYPE))
    assert problems(repository, skill) == ["cannot be used: it does not consist of one Sigstore bundle"]


@pytest.mark.usefixtures("trusted")
@pytest.mark.parametrize("part", ["attachment", "bundle"])
@pytest.mark.parametrize("damage", ["gone", "changed", "link"])
def test_whose_files_are_gone_or_damaged(part, damage, repository, skill, tmp_path):
    made = sign_skill(repository, skill, "math", "ada", None)
    digest = made.digest if part == "attachment" else repository.attachment(made.digest).files[0].digest
    path = repository.blobs.path(digest)
    content = path.read_bytes()
    path.unlink()
    if damage == "changed":
        path.write_bytes(content + b" ")
    elif damage == "link":
        (tmp_path / "elsewhere").write_bytes(content)
        path.symlink_to(tmp_path / "elsewhere")
    (problem,) = problems(repository, skill)
    assert problem.startswith("cannot be used: Blob")
    with pytest.raises(NotTrustedError):
        require_trusted(repository, skill.digest, "math")


@pytest.mark.usefixtures("trusted")
def test_a_copy_of_a_signature_counts_once(attach, skill):
    bundle = bundle_of("ada", skill.digest, "math")
    assert attach(bundle) == ""
    assert attach(bundle, copy="2") == "the same key's signature of the same skill is there already"
    assert attach(json.dumps(json.loads(bundle)).encode()).startswith("the same key's signature")


@pytest.mark.usefixtures("trusted", "bob")
def test_a_good_signature_counts_whatever_else_is_attached(attach, repository, skill):
    assert attach(b"{}")
    assert attach(bundle_of("bob", skill.digest, "math"))
    assert attach(bundle_of("ada", skill.digest, "math")) == ""
    assert attach(b"garbage")
    require_trusted(repository, skill.digest, "math")


def test_for_a_name_that_the_key_may_not_sign(repository, skill, ada):
    trust("ada", "Ada", skills=["code-*"])
    set_policy("require")
    sign_skill(repository, skill, "math", "ada", None)
    assert problems(repository, skill) == ["Ada is trusted for code-*, not for math"]
    with pytest.raises(NotTrustedError, match="your policy trusts nobody for it"):
        require_trusted(repository, skill.digest, "math")


def test_by_a_key_that_has_expired(repository, skill, ada, monkeypatch):
    trust("ada", "Ada", expires="2027-01-01")
    sign_skill(repository, skill, "math", "ada", None)
    for day, problem in (("2026-12-31", ""), ("2027-01-01", "the key of Ada expired on 2027-01-01")):
        monkeypatch.setattr("skillpack.signing.checking.today", lambda day=day: day)
        assert problems(repository, skill) == [problem]
    assert policy_module.today() > "2026"


@pytest.mark.usefixtures("trusted")
def test_by_a_key_that_was_revoked(repository, skill):
    sign_skill(repository, skill, "math", "ada", None)
    untrust("Ada", revoke=True)
    assert problems(repository, skill) == ["the key of Ada was revoked"]
    with pytest.raises(NotTrustedError, match="the key of Ada was revoked"):
        require_trusted(repository, skill.digest, "math")


def test_given_keys_stand_in_for_the_policy(repository, skill, ada, bob):
    sign_skill(repository, skill, "math", "ada", None)
    require_trusted(repository, skill.digest, "math", policy_of_keys([ada.path]))
    require_trusted(repository, skill.digest, "math", policy_of_keys([bob.path, "ada", ada.path]))
    with pytest.raises(NotTrustedError, match=r"a signature by .*bob\.pub is missing"):
        require_trusted(repository, skill.digest, "math", policy_of_keys([bob.path]))


@pytest.mark.usefixtures("trusted")
def test_signatures_travel_in_an_archive(repository, skill, tmp_path):
    sign_skill(repository, skill, "math", "ada", None)
    export_archive(repository, {"math": skill}, tmp_path / "a.tar")
    other = Repository.create(tmp_path / "other")
    import_archive(other, tmp_path / "a.tar")
    with pytest.raises(NotTrustedError):
        require_trusted(other, skill.digest, "math")
    import_referrers(other, tmp_path / "a.tar")
    require_trusted(other, skill.digest, "math")
    assert digest_of(other.blobs.read(skill.digest, limit=1 << 20)) == skill.digest
