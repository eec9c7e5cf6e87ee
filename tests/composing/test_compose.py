"""From skills of a store to one skill."""

from __future__ import annotations

import signal
import subprocess
import sys

import numpy as np
import pytest

import skillpack
from skillpack.checkpoint import open_checkpoint
from skillpack.composing.methods.ties import Ties
from skillpack.composing.plans import SumPlan, ValuePlan
from skillpack.composing.registry import make_method
from skillpack.composing.selection import QuantileSurvey
from skillpack.errors import ConflictError, NotFoundError, UsageError, WrongBaseError
from skillpack.library import open_wanted
from skillpack.packing.planning import LossyPlan
from skillpack_store import Repository
from tests.composing.methods import merged
from tests.packing.models import EMBED, NORM, bytes_on_disk, normal, tensor, tuned_values, write

MATRIX = "model.layers.0.up_proj.weight"
METHODS = ["sum", "average", "ties", "dare", "breadcrumbs", "pcb", "consensus", "tall-masks", "emr"]


def deltas(store, base, *addresses):
    """Tensor -> what each skill adds, zero where it does not touch it; exactly kept tensors included."""
    reference = open_checkpoint(base)
    found = {}
    for at, wanted in enumerate(open_wanted(list(addresses), store=store)):
        for entry in wanted.skill.manifest.tensors:
            start = reference.read(entry.reference)
            decoded = wanted.skill.decode(entry, start)
            added = decoded.delta if decoded.value is None else decoded.value.float32() - start.float32()
            found.setdefault(entry.name, [np.zeros_like(added)] * len(addresses))[at] = added
    return found


def of(store, base, address):
    return {name: found[0] for name, found in deltas(store, base, address).items()}


def relative(found, expected):
    missed = sum(np.square(found[name] - expected[name], dtype=float).sum() for name in expected)
    return np.sqrt(missed / sum(np.square(added, dtype=float).sum() for added in expected.values()))


def installed(folder, *skills, library, store):
    skillpack.install(list(skills), library.base, output=folder, store=store)
    found = open_checkpoint(folder)
    return {name: found.read(name) for name in found.tensors}


def test_a_sum_is_what_skills_make_together(compose, library, tmp_path):
    report = compose("ada=0.5", "bob=-2", "cat")
    assert (report.summed, report.recoded, report.version) == (5, 0, 1)
    parts = [wanted.skill for wanted in open_wanted(["ada", "bob", "cat"], store=compose.store)]
    weights = dict(zip([part.digest for part in parts], [0.5, -2, 1], strict=True))
    expected = deltas(compose.store, library.base, "ada", "bob", "cat")
    found = of(compose.store, library.base, "all")
    for entry in report.manifest.tensors:
        if entry.main.codec == "sum":
            total = np.zeros_like(found[entry.name])
            for digest, added in sorted(
                zip([part.digest for part in parts], expected[entry.name], strict=True), key=lambda pair: pair[0]
            ):
                total += np.float32(weights[digest]) * added
            np.testing.assert_array_equal(found[entry.name], total)
    one = installed(tmp_path / "one", "all", library=library, store=compose.store)
    many = installed(tmp_path / "many", "ada=0.5", "bob=-2", "cat", library=library, store=compose.store)
    for name, wanted in many.items():
        # One sum in fp32 less can move a number to the neighbour in bf16, rarely.
        assert np.mean(one[name].bits() != wanted.bits()) < 1e-3, name
    np.testing.assert_array_equal(one[NORM].data, many[NORM].data)
    assert (tmp_path / "one" / "config.json").read_bytes() == (tmp_path / "many" / "config.json").read_bytes()
    assert report.size == bytes_on_disk(compose.store, report.digest)
    assert report.size < sum(part.size for part in parts)


def test_one_skill_of_weight_1_installs_the_same_bytes(compose, library, tmp_path):
    compose("bob")
    one = installed(tmp_path / "one", "all", library=library, store=compose.store)
    alone = installed(tmp_path / "alone", "bob", library=library, store=compose.store)
    for name, wanted in alone.items():
        np.testing.assert_array_equal(one[name].data, wanted.data, err_msg=name)


def test_a_composed_skill_is_composed_like_any_other(compose, library):
    compose("ada", "bob", name="two")
    report = compose("two=0.5", "cat")
    assert report.summed == 5
    expected = deltas(compose.store, library.base, "ada", "bob", "cat")
    wanted = {name: 0.5 * (added[0] + added[1]) + added[2] for name, added in expected.items()}
    found = of(compose.store, library.base, "all")
    assert relative(found, wanted) < 5e-3


@pytest.mark.parametrize("method", ["ties", "pcb", "emr"])
def test_what_is_coded_anew_is_close_to_what_the_method_gives(compose, library, method):
    report = compose("ada=2", "bob", "cat", method=method)
    # The parts are told by digest, whatever their order was.
    parts = [part.name for part in report.recipe.parts]
    assert [part.digest for part in report.recipe.parts] == sorted(part.digest for part in report.recipe.parts)
    weights = [part.weight for part in report.recipe.parts]
    expected = merged(make_method(method, {}), deltas(compose.store, library.base, *parts), weights)
    assert relative(of(compose.store, library.base, "all"), expected) < 0.05
    assert report.recoded == 5
    norm = next(entry for entry in report.manifest.tensors if entry.name == NORM)
    assert (norm.main.codec, norm.error) == ("exact", 0)


def test_layers_are_swapped(compose, library):
    compose("bob", "ada", method="layer-swapping", options={"bottom": 1, "top": 0, "transition": 0})
    expected = deltas(compose.store, library.base, "bob", "ada")
    found = of(compose.store, library.base, "all")
    np.testing.assert_array_equal(found[MATRIX], expected[MATRIX][1])
    second = MATRIX.replace("0", "1")
    np.testing.assert_array_equal(found[second], expected[second][0])
    again = compose("ada", "bob", method="layer-swapping", options={"bottom": 1, "top": 0, "transition": 0})
    assert [part.name for part in again.recipe.parts] == ["ada", "bob"]


def test_the_last_layers_are_those_of_the_base_where_it_is_given(tmp_path):
    """Skills that change the first two of four layers, beside a tower of seven that they leave alone."""
    names = [*(f"model.layers.{layer}.up_proj.weight" for layer in range(4)), "vision.layers.6.up_proj.weight"]
    base = {name: normal(48, 32, seed=at) for at, name in enumerate(names)}
    write(tmp_path / "base", base, "F32")
    for seed, name in enumerate(("one", "two")):
        write(tmp_path / name, tuned_values(base, seed=100 * seed, unchanged=names[2:]), "F32")
        skillpack.pack(tmp_path / "base", tmp_path / name, name, store=tmp_path / "store")
    expected = deltas(tmp_path / "store", tmp_path / "base", "one", "two")
    options = {"bottom": 0, "top": 1, "transition": 0}
    for given, second in ((tmp_path / "base", 0), (None, 1)):
        skillpack.compose(
            ["one", "two"], "both", method="layer-swapping", options=options, base=given, store=tmp_path / "store"
        )
        found = of(tmp_path / "store", tmp_path / "base", "both")
        np.testing.assert_array_equal(found[names[0]], expected[names[0]][0])
        np.testing.assert_array_equal(found[names[1]], expected[names[1]][second])
        # How many layers there are is in the recipe.
        assert skillpack.recompose("both", store=tmp_path / "store").same
        assert skillpack.show("both", store=tmp_path / "store").manifest.recipe["options"]["layers"] == 4 - 2 * second


@pytest.mark.parametrize("method", METHODS)
def test_the_same_recipe_gives_the_same_skill(compose, library, method):
    report = compose("cat=0.5", "ada", method=method, workers=1)
    assert compose("ada", "cat=0.5", method=method, workers=2).digest == report.digest
    assert compose("ada", "cat=0.5", method=method).version == 1
    again = skillpack.recompose("all", store=compose.store, base=library.base)
    assert again.same
    assert (again.digest, again.version) == (report.digest, 1)


def test_another_recipe_gives_another_skill(compose):
    digests = {
        compose("ada", "bob", **options).digest
        for options in (
            {},
            {"options": {"scale": 0.5}},
            {"weights": [1, 0.5]},
            {"weights": {MATRIX: [0, 1]}},
            {"method": "dare"},
            {"method": "dare", "options": {"seed": 1}},
            {"method": "emr"},
            {"method": "emr", "task": "ada"},
            {"size": 40_000},
        )
    }
    assert len(digests) == 9


def test_weights_for_each_tensor(compose, library):
    report = compose("cat", "ada", weights={MATRIX: [0.0, -3.0], EMBED: [0.0, 0.0]}, learned={"from": "nothing"})
    expected = deltas(compose.store, library.base, "cat", "ada")
    found = of(compose.store, library.base, "all")
    np.testing.assert_array_equal(found[MATRIX], np.float32(-3) * expected[MATRIX][1])
    assert EMBED not in found
    assert report.recipe.learned == {"from": "nothing"}
    assert skillpack.recompose("all", store=compose.store, base=library.base).same


@pytest.mark.parametrize(("method", "size"), [("sum", 25_000), ("sum", 45_000), ("ties", 20_000), ("emr", 60_000)])
def test_a_size_is_met(compose, library, method, size):
    report = compose("ada", "bob", method=method, size=size)
    assert 0.98 * size <= report.size <= size
    assert bytes_on_disk(compose.store, report.digest) == report.size
    assert report.error > 0


def test_a_sum_that_fits_is_not_coded_anew(compose):
    report = compose("ada", "bob", size=80_000)
    assert (report.recoded, report.summed) == (0, 5)
    with pytest.raises(UsageError, match="not possible"):
        compose("ada", "bob", size=2_000)


def test_a_task_gets_its_own_back(compose, library):
    alone = of(compose.store, library.base, "bob")
    compose("ada", "bob", "cat", method="emr")
    shared = relative(of(compose.store, library.base, "all"), alone)
    compose("ada", "bob", "cat", method="emr", task="bob")
    assert relative(of(compose.store, library.base, "all"), alone) < 0.6 * shared
    with pytest.raises(UsageError, match="none of the skills"):
        compose("ada", "bob", method="emr", task="cat")
    with pytest.raises(UsageError, match="gives no task") as caught:
        compose("ada", "bob", task="ada")
    assert "twin" in caught.value.hint


def test_the_base_is_asked_for_where_it_is_needed(compose, library, tmp_path):
    with pytest.raises(UsageError, match="5 tensors are kept bit for bit") as caught:
        compose("ada", "bob", base=None)
    assert "--base" in caught.value.hint
    with pytest.raises(WrongBaseError, match="is not the base"):
        compose("ada", "bob", base=library.folder / "cat")
    write(tmp_path / "other", {"model.other.weight": normal(8, 8)})
    with pytest.raises(WrongBaseError, match="it lacks"):
        compose("ada", "bob", base=tmp_path / "other")


@pytest.fixture
def pair(tmp_path):
    """Function: pack two fine-tunes of a base in fp32, given as changes of values, and compose them."""
    base = {MATRIX: normal(48, 32, seed=1), NORM: normal(32, seed=2)}

    def pair(one, two, **options):
        write(tmp_path / "base", base, "F32")
        for name, values in (("first", one), ("second", two)):
            write(tmp_path / name, values(base), "F32", **options.pop(name, {}))
            skillpack.pack(tmp_path / "base", tmp_path / name, name, store=tmp_path / "store")
        given = {"weights": options.pop("weights", None), "method": options.pop("method", "sum")}
        return skillpack.compose(["first", "second"], "both", store=tmp_path / "store", **given, **options)

    pair.folder = tmp_path
    return pair


def moved(seed, **others):
    def values(base):
        return {**tuned_values(base, seed=seed), **others}

    return values


def test_no_base_is_needed_without_what_is_kept_bit_for_bit(pair):
    report = pair(moved(1), moved(2), method="ties")
    assert report.recoded == 2


def test_what_only_one_skill_has_is_taken_from_it(pair):
    report = pair(moved(1, head=tensor(normal(4, 32), "F32")), moved(2))
    skillpack.install("both", pair.folder / "base", output=pair.folder / "out", store=pair.folder / "store")
    np.testing.assert_array_equal(
        open_checkpoint(pair.folder / "out").read("head").data, open_checkpoint(pair.folder / "first").read("head").data
    )
    assert [entry.main.codec for entry in report.manifest.tensors if entry.name == "head"] == ["raw"]


def test_grown_rows_are_taken_from_one_skill(pair):
    grown = {MATRIX: np.vstack([normal(48, 32, seed=1), normal(3, 32, seed=9)])}
    pair(moved(1, **grown), lambda base: {**base, NORM: base[NORM] + 1})
    skillpack.install("both", pair.folder / "base", output=pair.folder / "out", store=pair.folder / "store")
    skillpack.install("first", pair.folder / "base", output=pair.folder / "one", store=pair.folder / "store")
    out, one = (open_checkpoint(pair.folder / name).read(MATRIX) for name in ("out", "one"))
    assert out.shape == (51, 32)
    np.testing.assert_array_equal(out.data, one.data)


@pytest.mark.parametrize(
    ("first", "second", "options", "message"),
    [
        ({"head": normal(4, 32, seed=3)}, {"head": normal(4, 32, seed=4)}, {}, "differ in tensor head"),
        ({"head": normal(4, 32)}, {}, {"weights": [0.5, 1]}, "tensor head cannot be scaled"),
        ({"head": normal(4, 32)}, {}, {"method": "negation"}, "tensor head cannot be scaled"),
        ({MATRIX: normal(50, 32)}, {}, {"base": "base"}, "cannot be added, because the fine-tune has another number"),
        ({}, {}, {"first": {"tokenizer": {"a": 1}}, "second": {"tokenizer": {"a": 2}}}, "tokenizer.json"),
        ({}, {}, {"first": {"tokenizer": {"a": 1}}, "weights": [0.5, 1]}, "tokenizer.json"),
    ],
)
def test_what_clashes_is_refused(pair, first, second, options, message):
    if "base" in options:
        options = {"base": pair.folder / "base"}
    with pytest.raises(ConflictError, match=message):
        pair(moved(1, **first), moved(2, **second), **options)
    assert {each.name for each in skillpack.list(store=pair.folder / "store")} == {"first", "second"}


def test_skills_of_different_bases_are_refused(compose, library, tmp_path):
    values = open_checkpoint(library.base)
    other = {name: values.read(name) for name in values.tensors} | {NORM: tensor(np.ones(64))}
    write(tmp_path / "other", other)
    write(tmp_path / "tuned", other | {MATRIX: tensor(normal(128, 64))})
    skillpack.pack(tmp_path / "other", tmp_path / "tuned", "stranger", store=compose.store)
    with pytest.raises(ConflictError, match="different bases"):
        compose("ada", "stranger")


@pytest.mark.parametrize(
    ("addresses", "options", "message"),
    [
        ([], {}, "No skill is named"),
        (["ada", "ada"], {}, "the same name"),
        (["ada=0.5", "bob"], {"weights": [1, 1]}, "have weights"),
        (["ada", "bob"], {"weights": [1]}, "1 weights for 2 skills"),
        (["ada", "bob"], {"weights": [1, 0]}, "weight 0"),
        (["ada", "bob"], {"weights": [1, float("nan")]}, "no weight"),
        (["ada", "bob"], {"weights": {MATRIX: [1]}}, "has 1 weights"),
        (["ada", "bob"], {"method": Ties(), "options": {"density": 0.5}}, "has its options"),
        (["ada", "bob"], {"weights": {"no.such": [1, 1]}}, "weights for no.such"),
        (["ada"], {"method": "no"}, "no method 'no'"),
        (["ada"], {"method": "consensus"}, "agree=2"),
        (["ada", "bob"], {"method": "consensus", "options": {"agree": 3}}, "agree=3"),
    ],
)
def test_wrong_questions(compose, addresses, options, message):
    with pytest.raises(UsageError, match=message):
        compose(*addresses, **options)


def test_recipes_that_cannot_be_followed(compose, library):
    with pytest.raises(UsageError, match="packed from a fine-tune"):
        skillpack.recompose("ada", store=compose.store)
    with pytest.raises(NotFoundError):
        skillpack.recompose("absent", store=compose.store)


def test_a_dry_run_stores_nothing(compose):
    before = Repository.open(compose.store).head("main").digest
    report = compose("ada", "bob", dry_run=True)
    assert (report.digest, report.version, report.same) == ("", None, None)
    assert Repository.open(compose.store).head("main").digest == before


def test_the_card_says_where_it_comes_from(compose):
    compose("ada", "bob", method="ties")
    card = skillpack.show("all", store=compose.store).card
    assert "composed by ties (density=0.2" in card
    assert "from `ada`, `sha256:" in card
    assert 'base_model: "base"' in card


SCRIPT = """
import os, signal, sys
import skillpack
from skillpack.packing.unfinished import Unfinished

limit, keep = int(sys.argv[1]), Unfinished.keep
def counted(self, *arguments):
    global limit
    found = keep(self, *arguments)
    limit -= self.kept
    if not limit:
        os.kill(os.getpid(), signal.SIGKILL)
    return found
Unfinished.keep = counted
skillpack.compose(["ada", "bob", "cat"], "all", method="ties", base=sys.argv[2], store=sys.argv[3], workers=1)
"""


def test_killed_compositions_go_on_where_they_were(compose, library, monkeypatch, tmp_path):
    """The survey takes two rounds of ten tensors."""
    monkeypatch.setenv("SKILLPACK_HOME", str(tmp_path / "home"))
    observed = []
    observe = QuantileSurvey.observe
    for limit in (4, 9, 3):
        script = [sys.executable, "-c", SCRIPT, str(limit), library.base, compose.store]
        assert subprocess.run(script, check=False).returncode == -signal.SIGKILL
    # Four and then six tensors of the first round, three of the second and three more.
    monkeypatch.setattr(
        QuantileSurvey, "observe", lambda self, name, *more: (observed.append(name), observe(self, name, *more))
    )
    report = compose("ada", "bob", "cat", method="ties", workers=1)
    assert len(observed) == 4
    unbroken = skillpack.recompose("all", base=library.base, store=compose.store)
    assert unbroken.same
    assert report.digest == unbroken.digest
    assert not list((tmp_path / "home" / "unfinished").glob("*"))


def _counting(found):
    analyse = LossyPlan.analyse

    def counting(self, *arguments):
        found.append(self.change.name)
        return analyse(self, *arguments)

    return counting


def test_an_interrupted_sum_does_not_check_twice(compose, library, monkeypatch, tmp_path):
    whole = compose("ada", "bob", "cat", method="sum", name="whole")
    monkeypatch.setenv("SKILLPACK_HOME", str(tmp_path / "home"))
    checked = []
    for plan in (SumPlan, ValuePlan):
        monkeypatch.setattr(plan, "check", _checking(checked, plan.check))

    def interrupt(done, total, what):
        if what == "coding" and done >= total / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compose("ada", "bob", "cat", method="sum", workers=1, progress=interrupt)
    before = len(checked)
    assert before >= 2
    report = compose("ada", "bob", "cat", method="sum", workers=1)
    assert (report.digest, report.resumed) == (whole.digest, before)
    assert len(set(checked)) == len(checked) > before
    assert not list((tmp_path / "home" / "unfinished").glob("*"))


def _checking(found, check):
    def checking(self, *arguments):
        found.append(self.name)
        return check(self, *arguments)

    return checking


def test_finished_analyses_are_not_done_twice(compose, library, monkeypatch, tmp_path):
    monkeypatch.setenv("SKILLPACK_HOME", str(tmp_path / "home"))
    # 20 observations, then two of five tensors.
    script = [sys.executable, "-c", SCRIPT, "22", library.base, compose.store]
    assert subprocess.run(script, check=False).returncode == -signal.SIGKILL
    analysed = []
    monkeypatch.setattr("skillpack.packing.planning.LossyPlan.analyse", _counting(analysed))
    monkeypatch.setattr(QuantileSurvey, "observe", lambda *_: pytest.fail("a finished survey is done again"))
    report = compose("ada", "bob", "cat", method="ties", workers=1)
    assert len(analysed) == 3
    assert report.resumed >= 2
