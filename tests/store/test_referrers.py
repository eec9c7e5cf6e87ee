from __future__ import annotations

import json

import pytest

from skillpack_store import Descriptor, NotFoundError, digest_of
from skillpack_store.documents import EMPTY
from tests.store.skills import commit_skill, put_skill

CARD = "application/vnd.skillpack.card.v1"


def test_attachments_are_found_and_do_not_change_the_skill(repository):
    commit = commit_skill(repository, "math", "one")
    skill = commit.skills["math"]
    assert repository.referrers(skill.digest) == []
    card = repository.attach(skill, CARD, [(b"# Math", "text/markdown", "README.md")], {"by": "Ada"})
    score = repository.attach(skill, "application/vnd.skillpack.eval.v1", [])
    assert repository.referrers(skill.digest) == [card, score]
    assert (card.artifact_type, card.annotations) == (CARD, {"by": "Ada"})
    assert repository.head() == commit
    assert put_skill(repository, "one") == skill
    attachment = repository.attachment(card.digest)
    assert attachment.subject.digest == skill.digest
    assert [file.annotations for file in attachment.files] == [{"org.opencontainers.image.title": "README.md"}]
    assert repository.blobs.read(attachment.files[0].digest, limit=100) == b"# Math"
    assert repository.attachment(score.digest).files == []


def test_an_attachment_is_an_oci_manifest_with_a_subject(repository):
    skill = put_skill(repository, "one")
    card = repository.attach(skill, CARD, [])
    assert json.loads(repository.blobs.read(card.digest, limit=2000)) == {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": CARD,
        "config": EMPTY.to_json(),
        "layers": [EMPTY.to_json()],
        "subject": {"mediaType": skill.media_type, "digest": skill.digest, "size": skill.size},
    }
    repository.blobs.verify(EMPTY.digest)


def test_the_list_is_where_the_referrers_tag_schema_says(repository):
    skill = put_skill(repository, "one")
    card = repository.attach(skill, CARD, [])
    index = json.loads((repository.path / "index.json").read_text())
    (entry,) = index["manifests"]
    assert entry["annotations"]["org.opencontainers.image.ref.name"] == skill.digest.replace(":", "-")
    listed = json.loads(repository.blobs.read(entry["digest"], limit=2000))
    assert [found["digest"] for found in listed["manifests"]] == [card.digest]
    assert listed["manifests"][0]["artifactType"] == CARD


def test_attaching_the_same_twice_attaches_it_once(repository):
    skill = put_skill(repository, "one")
    cards = [repository.attach(skill, CARD, [(b"x", "text/plain", "x")]) for _ in range(2)]
    assert cards[0] == cards[1]
    assert repository.referrers(skill.digest) == [cards[0]]
    assert len(repository.refs.log(f"referrers/{skill.digest.replace(':', '-')}")) == 1


def test_there_must_be_something_to_attach_to(repository):
    with pytest.raises(NotFoundError, match="attached"):
        repository.attach(Descriptor(digest_of(b"nothing"), 5, "a/b"), CARD, [])
    with pytest.raises(ValueError, match="media type"):
        repository.attach(put_skill(repository, "one"), "card", [])
