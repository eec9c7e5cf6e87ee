"""The model card: a header that the Hub reads, and nothing about this machine."""

import getpass
import shutil
import socket
from pathlib import Path

import huggingface_hub
import pytest
import yaml

import skillpack
from skillpack.checkpoint import open_checkpoint
from skillpack.model_card import base_license, base_name
from tests.packing.models import base_values, tuned_values, write

BASE = base_values(width=32, blocks=1, vocabulary=40)


@pytest.fixture
def models(tmp_path):
    return write(tmp_path / "some-base", BASE), write(tmp_path / "tuned", tuned_values(BASE))


def card_of(models, tmp_path, **options):
    report = skillpack.pack(*models, "math", store=tmp_path / "store", **options)
    return skillpack.show("math", store=tmp_path / "store").card, report


def header(card):
    return yaml.safe_load(card.split("---\n")[1])


def test_the_hub_reads_it(models, tmp_path):
    card, _ = card_of(models, tmp_path, license="apache-2.0")
    data = huggingface_hub.ModelCard(card).data
    assert data.base_model == "some-base"
    assert data.library_name == "skillpack"
    assert data.license == "apache-2.0"
    assert "skillpack" in data.tags


def test_it_says_what_the_skill_is(models, tmp_path):
    card, report = card_of(models, tmp_path)
    assert f"{report.size:,} bytes" in card
    assert report.manifest.base_fingerprint in card
    assert "skillpack install math ./model" in card
    assert "lowrank" in card


def test_it_holds_nothing_of_this_machine(models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for base in (
        models[0],
        "some-base",
        "./some-base",
        "../" + tmp_path.name + "/some-base",
        models[0] / "model.safetensors",
    ):
        card, _ = card_of((base, models[1]), tmp_path)
        for secret in (
            str(tmp_path),
            tmp_path.name,
            "..",
            f"{Path.home()}/",
            getpass.getuser() + "@",
            socket.gethostname(),
        ):
            assert secret not in card, (base, secret)


def test_a_path_from_the_home_folder_is_not_told(models, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "private").mkdir()
    shutil.move(models[0], tmp_path / "private" / "some-base")
    card, _ = card_of(("~/private/some-base", models[1]), tmp_path)
    assert header(card)["base_model"] == "some-base"
    assert "private" not in card


@pytest.mark.parametrize("name", ["no", "a: b", "quote\"d 'name'", "# x", "日本", "😀", "1.5", "[x]"])
def test_any_folder_name_is_sound_yaml(models, tmp_path, name):
    shutil.move(models[0], tmp_path / name)
    card, _ = card_of((tmp_path / name, models[1]), tmp_path)
    assert header(card)["base_model"] == name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("---\nlicense: mit\n---\nlicense: gpl-3.0\n", "mit"),
        ("---\ntags: [a]\nlicense: 'apache-2.0'\n---\n", "apache-2.0"),
        ('---\nlicense: "cc-by-4.0"\n---\n', "cc-by-4.0"),
        ("---\ntags: [a]\n---\nlicense: mit\n", "unknown"),
        ("# Model\nlicense: mit\n", "unknown"),
        ("", "unknown"),
        (None, "unknown"),
    ],
)
def test_the_license_is_the_bases(models, tmp_path, text, expected):
    if text is not None:
        (models[0] / "README.md").write_text(text)
    assert base_license(open_checkpoint(models[0])) == expected
    card, _ = card_of(models, tmp_path)
    assert header(card)["license"] == expected


@pytest.mark.parametrize("text", ["no", "1.0", "mit\nbase_model: other", "a: b", "# none"])
def test_a_license_is_text_whatever_it_says(models, tmp_path, text):
    card, _ = card_of(models, tmp_path, license=text)
    assert header(card)["license"] == text
    assert header(card)["base_model"] == "some-base"


def test_a_hub_id_is_named_without_the_commit():
    class Hub:
        origin = "org/name@0123456789abcdef"
        folder = None

    assert base_name(Hub()) == "org/name"


def test_the_card_is_not_part_of_the_skill(models, tmp_path):
    first, report = card_of(models, tmp_path, license="mit")
    second, again = card_of(models, tmp_path, license="apache-2.0")
    assert report.digest == again.digest
    assert first != second
