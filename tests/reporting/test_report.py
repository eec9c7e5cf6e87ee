"""What a page says, against what the commands say; and what it refuses."""

import html
import json
import re
import shutil

import pytest

import skillpack
from skillpack.errors import NoStoreError, UsageError, WrongBaseError
from skillpack.reporting.charts import short_size
from skillpack_store import Repository
from tests.reporting import models
from tests.reporting.conftest import CURVE, EVALUATED, LEARNED


def text_of(page):
    """What a reader sees, on one line."""
    body = re.sub(r"<(style|script)>.*?</\1>", "", page, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


def test_it_says_what_the_commands_say(page, library):
    content = page.read_text()
    text = text_of(content)
    for skill in skillpack.list(store=library):
        assert skill.digest in content
        assert f'data-v="{skill.size}"' in content
        assert skill.message in text
    assert content.count('<details class="skill"') == 30
    assert "Our skills" in text
    head = Repository.open(library).head("main")
    assert head.digest.removeprefix("sha256:")[:12] in text
    # The older version is there as well.
    assert text.count("All about haiku") == 1
    assert text.count("More poems") == 2


def test_groups_are_those_of_cluster(page, library):
    text = text_of(page.read_text())
    found = skillpack.cluster(store=library)
    groups = [group for group in found.groups if len(group.names) > 1]
    assert any("code-python" in group.names for group in groups)
    for group in groups:
        assert f"{', '.join(group.names)} mean cosine {group.cosine:.2f}" in text
    assert "emails is not placed: what comes back bit for bit cannot be compared without the base" in text


def test_with_the_base_everything_is_placed(library, tmp_path):
    base = library.parent / "base"
    text = text_of(skillpack.report(tmp_path / "page.html", base=base, store=library).path.read_text())
    assert "is not placed" not in text
    assert "cannot be said" not in text


def test_curves_learning_and_evaluations(page):
    text = text_of(page.read_text())
    for point in CURVE["points"]:
        assert f"{point['error']:.3g} {short_size(point['bound'])}"[:6] in text
    for score in (0.93, 0.88, 0.61):
        assert f"{score:.3f}" in text
    assert "Average 0.806 Backward transfer 0.000 Forward transfer -0.012" in text
    assert "Average 0.790 Backward transfer -0.020 Forward transfer \N{EN DASH}" in text
    assert "since it was learned -0.030 -0.010 0.000" in text
    assert "KL 0.0123 nats from the fine-tune, agreement 98.1 %, 99.1 % of the gain kept, on 150 samples" in text


def test_learning_without_a_router(page, library, tmp_path):
    heading = "with the skill that a router chose"
    path = tmp_path / "learn.json"
    nothing = {key: [] if key == "routed_scores" else None for key in LEARNED if key.startswith("routed_")}
    path.write_text(json.dumps(LEARNED | nothing | {"router": None, "routing": []}))
    text = text_of(skillpack.report(tmp_path / "page.html", learn=[path], store=library).path.read_text())
    assert (heading in text_of(page.read_text()), heading in text) == (True, False)


def test_equal_libraries_give_equal_pages(library, files, tmp_path):
    pages = [
        skillpack.report(tmp_path / name, sweeps=[files.curve], store=library).path.read_bytes() for name in ("a", "b")
    ]
    assert pages[0] == pages[1]


def test_signatures(tmp_path, monkeypatch, library, empty_store):
    monkeypatch.setenv("SKILLPACK_HOME", str(tmp_path / "home"))
    archive = tmp_path / "one.tar"
    skillpack.export(["haiku", "emails"], archive, store=library)
    skillpack.import_skill(archive, store=empty_store)
    key = skillpack.new_key("ada")
    assert key.name == "ada"
    skillpack.trust("ada", "Ada-of-London")
    skillpack.sign("haiku", "ada", store=empty_store)
    content = skillpack.report(tmp_path / "page.html", store=empty_store).path.read_text()
    assert "1 of 2" in text_of(content)
    assert "haiku 1" in text_of(content)
    assert text_of(content).count("Ada-of-London") == 2


@pytest.fixture
def empty_store(tmp_path):
    Repository.open_or_create(tmp_path / "store")
    return tmp_path / "store"


def test_an_empty_library(empty_store, tmp_path):
    found = skillpack.report(tmp_path / "page.html", store=empty_store)
    assert (found.skills, found.commit) == (0, None)
    assert found.size == found.path.stat().st_size
    assert "There is no skill on this branch yet" in found.path.read_text()


def test_nothing_is_written_where_nothing_can_be_said(tmp_path, library, files):
    page = tmp_path / "page.html"
    with pytest.raises(NoStoreError):
        skillpack.report(page, store=tmp_path / "none")
    with pytest.raises(UsageError, match="learn"):
        skillpack.report(page, learn=[files.curve], store=library)
    other = models.write_model(tmp_path / "other", {name: value + 1 for name, value in models.base_values().items()})
    unknown = shutil.copytree(library, tmp_path / "copy", ignore=shutil.ignore_patterns("cache"))
    with pytest.raises(WrongBaseError):
        skillpack.report(page, base=other, store=unknown)
    assert not page.exists()


def changed(document, **values):
    return {**document, **values}


@pytest.mark.parametrize(
    ("option", "document"),
    [
        *[("learn", wrong) for wrong in ([], {}, "", None, 3)],
        ("learn", changed(LEARNED, tasks=[])),
        ("learn", changed(LEARNED, tasks=[1, 2, 3])),
        ("learn", changed(LEARNED, scores=[[0.1] * 4])),
        ("learn", changed(LEARNED, scores=[["<b>"]])),
        ("learn", changed(LEARNED, bytes=[1])),
        ("learn", changed(LEARNED, average=float("nan"))),
        ("learn", changed(LEARNED, average=True)),
        ("learn", changed(LEARNED, routed_scores=[[0.1] * 4])),
        ("learn", changed(LEARNED, routed_average="<b>")),
        ("sweeps", changed(CURVE, points=[])),
        ("sweeps", changed(CURVE, points=[{"size": 0, "error": 1}])),
        ("sweeps", changed(CURVE, points=[{"size": 10**400, "error": 1}])),
        ("sweeps", changed(CURVE, tuned_size="<script>")),
        ("evals", changed(EVALUATED, skill=7)),
        ("evals", changed(EVALUATED, kl=None)),
    ],
)
def test_files_of_another_kind_are_refused(option, document, library, tmp_path):
    path = tmp_path / "file.json"
    path.write_text(json.dumps(document))
    with pytest.raises(UsageError, match="is not what"):
        skillpack.report(tmp_path / "page.html", **{option: [path]}, store=library)


@pytest.mark.parametrize("content", [b"", b"\xff", b"[" * 100_000, b"{"])
def test_files_that_are_no_json_are_refused(content, library, tmp_path):
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(UsageError, match="is not what"):
        skillpack.report(tmp_path / "page.html", evals=[path], store=library)


def test_a_missing_file_is_named(library, tmp_path):
    with pytest.raises(UsageError, match=r"nothing\.json cannot be read"):
        skillpack.report(tmp_path / "page.html", learn=[tmp_path / "nothing.json"], store=library)


def test_nothing_hostile_is_left_as_it_was(hostile):
    content = hostile.read_text()
    body = re.sub(r"<(style|script)>.*?</\1>", "", content, flags=re.DOTALL)
    for bad in ("<img", "<script", 'onerror="', '="javascript:', "\x1b", "\u202e", "\x00", "</td><td>evil"):
        assert bad not in body, bad
    assert "&lt;img src=x onerror=" in body
    assert "\\x1b" in body
    assert "\\u202e" in body
    assert not re.search(r"https?://|//[a-z]|url\(|@import", body)
