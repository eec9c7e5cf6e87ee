"""What notebooks show: complete, escaped, and in need of nothing from elsewhere."""

from __future__ import annotations

from dataclasses import replace
from html.parser import HTMLParser

import pytest

import skillpack
from skillpack.evaluating.report import ByModel, EvalReport, TensorShare
from skillpack.notebook import list_html, pack_html
from skillpack.summaries import SkillList, SkillSummary
from tests.installing.models import base_tensors, moved, write_model

EVIL = "<img src=x onerror=alert(1)>\"'&"


class Page(HTMLParser):
    """Text and tags; fails where tags are not closed in their order."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.text = [], set(), []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.open.append(tag)
        self.tags.add(tag)
        assert {name for name, _ in attributes} <= {"class", "style"}

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.text.append(data)


def texts(html):
    page = Page(html)
    assert page.tags <= {"div", "style", "h4", "table", "tr", "th", "td", "span", "p"}
    assert "http" not in html
    assert "<script" not in html
    return page.text


@pytest.fixture
def packed(tmp_path):
    base = write_model(tmp_path / "base", base_tensors())
    tuned = write_model(tmp_path / "tuned", moved(base_tensors(), 1, "embed.weight", "layers.0.up.weight"), extra={})
    report = skillpack.pack(base, tuned, "math", store=tmp_path / "store", message=EVIL)
    return tmp_path / "store", report


def test_a_skill(packed):
    store, report = packed
    skill = skillpack.AutoSkill.from_library("math", store=store)
    shown = texts(skill._repr_html_())
    assert shown[0] == "Skill math"
    assert {report.digest, "layers.0.up.weight", "8 x 16", "extra.json"} <= set(shown)
    assert repr(skill).startswith("Skill('math', sha256:")


def test_a_report_of_a_pack(packed):
    _, report = packed
    shown = texts(report._repr_html_())
    assert shown[0] == "Packed math@1"
    assert any("of the fine-tune's" in text for text in shown)
    dry = texts(replace(report, version=None, digest="", code_files=(EVIL,))._repr_html_())
    assert dry[0] == "Packed math, not stored"
    assert EVIL in dry


def test_a_list(packed):
    store, _ = packed
    skills = skillpack.list(store=store)
    assert isinstance(skills, list)
    shown = texts(skills._repr_html_())
    assert shown[0] == "1 skill"
    assert {"math", "1", EVIL} <= set(shown)
    assert texts(list_html([])) == ["0 skills"]


def test_everything_is_escaped(packed):
    _, report = packed
    summary = SkillSummary(EVIL, 3, EVIL, 10**9, EVIL, EVIL, EVIL + "\nmore")
    shown = texts(SkillList([summary])._repr_html_())
    assert shown.count(EVIL) == 2
    assert EVIL not in SkillList([summary])._repr_html_()
    entry = replace(report.manifest.tensors[0], name=EVIL)
    assert EVIL in texts(pack_html(replace(report, name=EVIL, manifest=replace(report.manifest, tensors=(entry,)))))
    measured = EvalReport(
        EVIL, "next token", 2, 10, 0.01, (0.005, 0.02), 0.9, (0.8, 1.0), ByModel(None, 2.0, 1.5),
        ByModel(0.1, 0.2, 0.3), 0.95, None, (TensorShare(EVIL, -0.1), TensorShare("b", 0.2)), (EVIL,),
    )  # fmt: skip
    shown = texts(measured._repr_html_())
    assert shown.count(EVIL) == 2
    assert {"95.0% ", "2", "1.5", "20.0%"} <= set(shown)
    assert EVIL not in measured._repr_html_()


def test_many_tensors_are_counted(packed):
    _, report = packed
    entries = tuple(replace(report.manifest.tensors[0], name=f"layer.{number:03}") for number in range(40))
    shown = texts(pack_html(replace(report, manifest=replace(report.manifest, tensors=entries))))
    assert "and 28 more" in shown


def test_auto_skill(packed, tmp_path):
    store, report = packed
    assert skillpack.AutoSkill.from_library("math@1", store=store).digest == report.digest
    with pytest.raises(TypeError, match="from_library"):
        skillpack.AutoSkill()
