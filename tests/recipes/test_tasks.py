"""What is trained, what calibrates and what is measured stay apart, and are the same everywhere."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import recipes
from recipes.suite import SUITE
from recipes.tasks import TASKS, Exchange
from recipes.tasks.task import epochs

DOWNLOADED = {"review-summaries", "word-problems", "city-facts", "few-city-facts"}
NAMES = [pytest.param(name, marks=pytest.mark.real_model if name in DOWNLOADED else ()) for name in TASKS]

COUNT = 3_200
"""No fewer than any recipe draws."""


def sets(name):
    task = TASKS[name]
    return task.train(COUNT, 0), task.calibration(), task.held_out()


def digest(exchanges):
    lines = [f"{exchange.prompt}\t{exchange.answer}\n" for exchange in exchanges]
    return hashlib.sha256("".join(lines).encode()).hexdigest()[:16]


@pytest.mark.parametrize("name", NAMES)
def test_no_prompt_is_in_two_sets(name):
    trained, calibration, held_out = ({exchange.prompt for exchange in each} for each in sets(name))
    other_seed = {exchange.prompt for exchange in TASKS[name].train(2 * COUNT, 1)}
    assert not held_out & (trained | other_seed)
    assert not calibration & (trained | other_seed)
    assert not calibration & held_out


@pytest.mark.parametrize(
    ("name", "least"),
    [
        pytest.param(
            *name.values, (144, 12, 60) if name.values == ("few-city-facts",) else (300, 128, 150), marks=name.marks
        )
        for name in NAMES
    ],
)
def test_there_is_enough_of_each(name, least):
    trained, calibration, held_out = sets(name)
    assert len(trained) == COUNT
    assert len({exchange.prompt for exchange in trained}) >= least[0]
    assert least[1] <= len(calibration) == len(set(calibration)) <= 512
    assert least[2] <= len(held_out) == len(set(held_out))
    assert all(len(exchange.answer) > 1 and exchange.prompt for exchange in (*trained, *calibration, *held_out))


@pytest.mark.parametrize("name", NAMES)
def test_another_process_gets_the_same(name):
    script = (
        "import sys; sys.path.insert(0, sys.argv[2]); from recipes.tasks import TASKS; task = TASKS[sys.argv[1]]; "
        f"print([*task.train({COUNT}, 0), *task.calibration(), *task.held_out()])"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-c", script, name, str(Path(recipes.__file__).parent.parent)]
    done = subprocess.run(command, capture_output=True, check=True, env=environment)
    trained, calibration, held_out = sets(name)
    assert done.stdout.decode().rstrip("\r\n") == str([*trained, *calibration, *held_out])


def test_the_seed_decides_what_is_trained():
    task = TASKS["spanish-numbers"]
    assert task.train(20, 0) == task.train(COUNT, 0)[:20]
    assert task.train(20, 0) != task.train(20, 1)


def test_numbers_are_those_of_the_published_figures():
    trained, _, held_out = sets("spanish-numbers")
    assert (digest(trained), digest(held_out)) == ("7067798b98f0f094", "1f66bb47b891dde2")
    assert digest(TASKS["french-numbers"].train(120, 0)) == "c32a31b168d998f1"


def test_five_languages_take_turns():
    trained, _, held_out = sets("five-languages")
    assert trained[3:5] == [
        Exchange("Write 344 in Italian words.", "trecentoquarantaquattro"),
        Exchange("Write 79 in Portuguese words.", "setenta e nove"),
    ]
    for exchanges in (trained, held_out):
        languages = [exchange.prompt.split()[3] for exchange in exchanges]
        assert {languages.count(language) for language in languages} == {len(exchanges) // 5}


@pytest.mark.real_model
def test_a_review_under_another_name_of_the_drug_is_not_trained():
    texts = [{exchange.prompt.partition("\n")[2] for exchange in each} for each in sets("review-summaries")]
    assert not texts[0] & texts[2]
    assert not texts[0] & texts[1]
    assert not texts[1] & texts[2]


@pytest.mark.real_model
def test_answers_to_word_problems_end_in_a_number_and_hold_no_calculator_marks():
    for exchange in TASKS["word-problems"].held_out():
        steps, _, result = exchange.answer.partition("\n#### ")
        assert steps
        assert result.replace(",", "").lstrip("-").isdigit()
        assert "<<" not in exchange.answer


@pytest.mark.real_model
def test_measured_cities_were_trained_and_are_not_in_a_country_that_calibrates():
    trained, calibration, held_out = sets("city-facts")
    answers = {exchange.answer for exchange in trained}
    assert {exchange.answer for exchange in held_out} <= answers
    countries = [{exchange.answer.split(", ")[0] for exchange in each} for each in (calibration, held_out)]
    assert len(countries[0]) > 50
    assert len(countries[1]) > 50
    assert not countries[0] & countries[1]


def test_every_epoch_has_everything_once():
    pool = [Exchange(str(number), "") for number in range(10)]
    drawn = epochs(pool, 25, seed=3)
    assert set(drawn[:10]) == set(drawn[10:20]) == set(pool)
    assert drawn[:10] != drawn[10:20]
    assert len(drawn) == 25


def test_the_suite_has_six_fine_tunes_and_names_each_after_its_task():
    assert len(SUITE) >= 6
    assert all(name == recipe.task for name, recipe in SUITE.items())
    assert len({recipe.folder for recipe in SUITE.values()}) == len(SUITE)
    assert set(SUITE) - set(TASKS) == {"drug-reviews"}
    assert all(recipe.steps * recipe.batch <= COUNT for name, recipe in SUITE.items() if name in TASKS)
