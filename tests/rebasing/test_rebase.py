"""Skills on a newer base: what they say there, what is refused, and that nothing is half done."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

import skillpack
from skillpack.checkpoint import open_checkpoint
from skillpack.errors import ConflictError, NotFiniteError, UsageError, WrongBaseError
from skillpack.skill import open_skill
from skillpack.tensors import Tensor
from skillpack_store import Repository
from tests.packing.models import (
    EMBED,
    HEAD,
    assert_same,
    base_values,
    drift,
    normal,
    rebuilt,
    stored,
    tensor,
    tuned_values,
    write,
)

BASE = base_values(width=32, blocks=2, vocabulary=40)
TUNED = tuned_values(BASE)
Q, UP, BIAS = (f"model.layers.0.{name}.weight" for name in ("q_proj", "up_proj", "bias"))
CONFIG = {"vocab_size": 40, "labels": {"a": 0}}


def newer(values=BASE, names=None, seed=900, scale=0.5):
    """A base that moved on: those with `names`, or all."""
    return {
        name: old + scale * drift(old.shape, seed + at) if names is None or name in names else old
        for at, (name, old) in enumerate(sorted(values.items()))
    }


class Place:
    """Models and a store in a folder."""

    def __init__(self, root):
        self.root, self.store = root, root / "store"

    def model(self, name, values, dtype="BF16", **files):
        return write(self.root / name, values, dtype, **files)

    def pack(self, base, tuned, name="math", **goal):
        return skillpack.pack(base, tuned, name, store=self.store, **goal)

    def rebase(self, address, onto, **options):
        return skillpack.rebase(address, onto, store=self.store, **options)

    def skill(self, address):
        found = skillpack.show(address, store=self.store).summary
        return open_skill(Repository.open(self.store), found.digest, found.name)


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


@pytest.fixture
def models(place):
    return place.model("base", BASE), place.model("tuned", TUNED), place.model("newer", newer())


def moved(old, tuned, new, dtype="BF16"):
    """New base plus difference, in fp32 and with one cast, tensor by tensor."""
    result = {}
    for name, value in stored(tuned, dtype).items():
        before, after = stored(old, dtype)[name], stored(new, dtype)[name]
        result[name] = tensor(after.float32() + (value.float32() - before.float32()), dtype)
    return result


def test_an_exact_skill_becomes_the_new_base_plus_the_difference(place, models):
    base, tuned, new = models
    place.pack(base, tuned, exact=True)
    report = place.rebase("math", new, base=base)
    assert (report.name, report.version, report.source) == ("math", 2, "math@1")
    assert (report.tensors, report.moved, report.recoded) == (len(BASE),) * 3
    assert not report.same
    skill = place.skill("math@2")
    assert_same(rebuilt(skill, new), moved(BASE, TUNED, newer()))
    assert all(entry.error == 0 for entry in skill.manifest.tensors)


def test_it_is_the_skill_that_packing_on_the_new_base_would_give(place, models):
    base, tuned, new = models
    place.pack(base, tuned, exact=True)
    place.rebase("math", new, base=base)
    sum_of_both = {name: value.float32() for name, value in moved(BASE, TUNED, newer()).items()}
    packed = place.pack(new, place.model("sum", sum_of_both), "other", exact=True)
    one, other = place.skill("math").manifest, packed.manifest
    assert (one.tensors, one.tables, one.base_fingerprint) == (other.tensors, other.tables, other.base_fingerprint)
    assert one.tuned_fingerprint == place.skill("math@1").manifest.tuned_fingerprint != other.tuned_fingerprint


def test_what_was_approximated_is_kept_byte_for_byte(place, models):
    base, tuned, new = models
    place.pack(base, tuned)
    before = place.skill("math")
    report = place.rebase("math", new, base=base)
    after = place.skill("math")
    vectors = {name for name, value in BASE.items() if value.ndim == 1}
    assert {tensor.tensor for tensor in report.conflicts.tensors if tensor.recoded} == vectors
    for old, new_entry in zip(before.manifest.tensors, after.manifest.tensors, strict=True):
        kept = before.streams(old) == after.streams(new_entry)
        assert kept == (old.name not in vectors)
        assert new_entry.main.parameters == old.main.parameters
    _, fresh, _ = models
    installed = rebuilt(after, new)
    for entry in before.manifest.tensors:
        if entry.name not in vectors:
            delta = before.decode(entry, None).delta
            wanted = tensor(stored(newer())[entry.name].float32() + delta)
            np.testing.assert_array_equal(installed[entry.name].data, wanted.data)
    del fresh


@pytest.mark.parametrize("goal", [{"exact": True}, {"quality": 0.5}])
def test_onto_the_same_base_it_is_the_same_skill(place, models, goal):
    base, tuned, _ = models
    packed = place.pack(base, tuned, **goal)
    heads = skillpack.log(store=place.store)
    for old in (base, None):
        report = place.rebase("math", shutil.copytree(base, place.root / f"copy-{old is None}"), base=old)
        assert (report.digest, report.version, report.same) == (packed.digest, 1, True)
    assert skillpack.log(store=place.store) == heads
    assert place.rebase("math", base, name="twin").digest == packed.digest
    assert skillpack.show("twin", store=place.store).summary.version == 1


def test_a_skill_that_installs_and_comes_off(place, models):
    base, tuned, new = models
    place.pack(base, tuned)
    with pytest.raises(WrongBaseError):
        skillpack.install("math", new, store=place.store)
    place.rebase("math", new, base=base)
    digests = {name: value.digest() for name, value in stored(newer()).items()}
    skillpack.install("math", new, store=place.store)
    found = open_checkpoint(new)
    assert all(found.read(name).digest() != digest for name, digest in digests.items())
    with pytest.raises(UsageError, match="no base: skills are installed"):
        place.rebase("math@1", new, base=base)
    skillpack.remove(["math"], new)
    found = open_checkpoint(new)
    assert {name: found.read(name).digest() for name in found.tensors} == digests


def test_there_and_back(place, models):
    """What was approximated comes back to the same bytes; the rest to within the rounding of two casts."""
    base, tuned, new = models
    matrices = {name for name, value in BASE.items() if value.ndim == 2}
    part = place.model("part", {name: TUNED[name] if name in matrices else value for name, value in BASE.items()})
    first = place.pack(base, part)
    place.rebase("math", new, base=base)
    assert place.rebase("math", base, base=new).digest == first.digest
    place.pack(base, tuned, "exact", exact=True)
    place.rebase("exact", new, base=base)
    place.rebase("exact", base, base=new)
    back, tensors = rebuilt(place.skill("exact"), base), stored(TUNED)
    for name, value in back.items():
        np.testing.assert_allclose(value.float32(), tensors[name].float32(), atol=0.04)


def test_the_old_base_is_needed_only_for_what_it_decides(place, models):
    base, tuned, _ = models
    place.pack(base, tuned)
    matrices = {name for name, value in BASE.items() if value.ndim == 2}
    report = place.rebase("math", place.model("matrices", newer(names=matrices)))
    assert (report.moved, report.recoded) == (len(matrices), 0)
    assert report.conflicts.moved == 0
    reasons = {tensor.tensor: tensor.reason for tensor in report.conflicts.tensors}
    assert {name for name, reason in reasons.items() if reason} == matrices
    with pytest.raises(UsageError, match=r"distance from the values.*model\.layers\.0\.bias") as raised:
        place.rebase("math@1", place.model("vectors", newer(names={BIAS})))
    assert "--from" in raised.value.hint


def test_the_old_base_is_checked(place, models):
    base, tuned, new = models
    place.pack(base, tuned)
    with pytest.raises(WrongBaseError, match="packed from another base"):
        place.rebase("math", new, base=place.model("wrong", newer(names={Q}, seed=77)))


def test_shapes_and_names_that_do_not_fit(place, models):
    base, tuned, _ = models
    place.pack(base, tuned)
    other = {**BASE, Q: normal(32, 16, seed=5), EMBED: normal(44, 32, seed=6)}
    del other[UP]
    with pytest.raises(WrongBaseError) as raised:
        place.rebase("math", place.model("other", other), base=base)
    assert raised.value.exit_code == 12
    assert raised.value.tensors == (EMBED, Q, UP)
    assert "other rows: [40, 32] in the old base, [44, 32] in the new one" in raised.value.message
    assert "another shape: [32, 32] in the old base, [32, 16] in the new one" in raised.value.message
    assert f"{UP} (missing)" in raised.value.message
    with pytest.raises(WrongBaseError, match="hardly a tensor name"):
        place.rebase("math", place.model("stranger", {"a.b": normal(3, 3), "a.c": normal(3, 3)}), base=base)


@pytest.mark.parametrize("exact", [True, False])
def test_a_base_that_renames_its_tensors(place, models, exact):
    base, tuned, _ = models
    place.pack(base, tuned, exact=exact)
    renamed = {f"inner.{name}": value for name, value in newer().items()}
    new = place.model("renamed", {**renamed, "inner.extra": normal(4)})
    report = place.rebase("math", new, base=base)
    assert report.remarks == ("the new base has tensors that the old one has not, and keeps them: inner.extra",)
    found = rebuilt(place.skill("math"), new)
    assert found.keys() == {*renamed, "inner.extra"}
    plain = place.rebase("math@1", place.model("plain", newer()), base=base, name="plain")
    unprefixed = rebuilt(place.skill("plain"), place.root / "plain")
    assert plain.size == pytest.approx(report.size, rel=0.05)
    for name, value in unprefixed.items():
        np.testing.assert_array_equal(found[f"inner.{name}"].data, value.data)


def test_a_fine_tune_with_names_of_its_own_keeps_them(place):
    base = place.model("base", BASE)
    tuned = place.model("tuned", {f"bert.{name}": value for name, value in TUNED.items()} | {"score": normal(2, 32)})
    place.pack(base, tuned, exact=True)
    new = place.model("newer", {f"text.{name}": value for name, value in newer().items()})
    place.rebase("math", new, base=base)
    found = rebuilt(place.skill("math"), new)
    assert found.keys() == {f"bert.{name}" for name in BASE} | {"score"}
    np.testing.assert_array_equal(found[f"bert.{Q}"].data, moved(BASE, TUNED, newer())[Q].data)


def test_new_tensors_on_renamed_bases_are_refused(place):
    base = place.model("base", BASE)
    place.pack(base, place.model("tuned", {**TUNED, "score.weight": normal(2, 32)}))
    new = place.model("renamed", {f"inner.{name}": value for name, value in BASE.items()})
    with pytest.raises(WrongBaseError, match=r"what score\.weight would be called in it cannot be known"):
        place.rebase("math", new, base=base)


def test_new_rows_and_new_tensors_move_along(place):
    base = place.model("base", BASE)
    grown = {**TUNED, EMBED: np.concatenate([TUNED[EMBED], normal(3, 32, seed=8)]), "score": normal(2, 32, seed=9)}
    place.pack(base, place.model("tuned", grown), exact=True)
    new = place.model("newer", newer())
    place.rebase("math", new, base=base)
    found, wanted = rebuilt(place.skill("math"), new), moved(BASE, TUNED, newer())
    np.testing.assert_array_equal(found[EMBED].data[: wanted[EMBED].nbytes], wanted[EMBED].data)
    np.testing.assert_array_equal(found[EMBED].data[wanted[EMBED].nbytes :], tensor(grown[EMBED][40:]).data)
    np.testing.assert_array_equal(found["score"].data, tensor(grown["score"]).data)


def test_a_base_that_grew_rows_of_its_own_is_refused(place):
    base = place.model("base", BASE)
    place.pack(base, place.model("tuned", {**TUNED, EMBED: np.concatenate([TUNED[EMBED], normal(3, 32)])}))
    new = place.model("newer", {**BASE, EMBED: np.concatenate([BASE[EMBED], normal(3, 32)])})
    for old in (base, None):
        with pytest.raises(WrongBaseError, match=r"other rows: \[40, 32\] in the old base, \[43, 32\]"):
            place.rebase("math", new, base=old)


def test_tied_tensors_stay_tied_and_parting_them_is_refused(place):
    tied = {**BASE, HEAD: BASE[EMBED]}
    base = place.model("base", tied)
    place.pack(base, place.model("tuned", {**TUNED, HEAD: TUNED[EMBED]}), exact=True)
    moved_on = newer()
    place.rebase("math", place.model("newer", {**moved_on, HEAD: moved_on[EMBED]}), base=base)
    found = rebuilt(place.skill("math"), place.root / "newer")
    np.testing.assert_array_equal(found[HEAD].data, moved(BASE, TUNED, moved_on)[EMBED].data)
    with pytest.raises(WrongBaseError, match=r"lm_head\.weight \(no longer equal to model\.embed_tokens\.weight\)"):
        place.rebase("math@1", place.model("parted", {**moved_on, HEAD: normal(40, 32)}), base=base)


def test_an_untied_head_of_the_new_base_is_refused(place, models):
    base, tuned, _ = models
    place.pack(base, tuned)
    new = place.model("untied", {**newer(), HEAD: normal(40, 32)})
    with pytest.raises(WrongBaseError, match=r"lm_head\.weight \(tied to the embedding in the old base\)"):
        place.rebase("math", new, base=base)


def test_a_base_in_another_dtype_takes_the_skill_with_it(place, models):
    base, tuned, _ = models
    place.pack(base, tuned, exact=True)
    new = place.model("wide", newer(), "F32")
    with pytest.raises(WrongBaseError, match="F32, where the skill has BF16; give the base"):
        place.rebase("math", new)
    place.rebase("math", new, base=base)
    found = rebuilt(place.skill("math"), new)
    for name, value in newer().items():
        before, after = tensor(BASE[name]).float32(), tensor(TUNED[name]).float32()
        wanted = tensor(value.astype(np.float32) + (after - before), "F32")
        assert found[name].dtype == "F32"
        np.testing.assert_array_equal(found[name].data, wanted.data)


def test_a_dtype_of_the_fine_tunes_own_stays(place):
    base = place.model("base", BASE, "F32")
    place.pack(base, place.model("tuned", TUNED))
    place.rebase("math", place.model("newer", newer(), "F32"), base=base)
    assert {entry.dtype for entry in place.skill("math").manifest.tensors} == {"BF16"}


def test_integers_that_both_changed(place):
    steps = {"steps": Tensor.of(np.arange(4))}
    base = place.model("base", {**BASE, **steps})
    place.pack(base, place.model("tuned", {**TUNED, "steps": Tensor.of(np.arange(4) + 9)}))
    new = {**newer(), **steps}
    place.rebase("math", place.model("newer", new), base=base)
    assert rebuilt(place.skill("math"), place.root / "newer")["steps"].array().tolist() == [9, 10, 11, 12]
    place.rebase("math@1", place.model("agreeing", {**new, "steps": Tensor.of(np.arange(4) + 9)}), base=base)
    with pytest.raises(ConflictError, match="both changed steps, which cannot be added"):
        place.rebase("math@1", place.model("clashing", {**new, "steps": Tensor.of(np.arange(4) + 1)}), base=base)


def test_tensors_that_are_gone_stay_gone(place):
    base = place.model("base", {**BASE, "pooler": normal(4), "extra": normal(5)})
    place.pack(base, place.model("tuned", TUNED))
    new = place.model("newer", {**newer(), "pooler": normal(4, seed=3)})
    place.rebase("math", new, base=base)
    skill = place.skill("math")
    assert skill.manifest.gone == (("pooler", tensor(normal(4, seed=3)).digest()),)
    assert rebuilt(skill, new).keys() == BASE.keys()


def test_what_is_not_finite_is_refused_only_where_it_would_have_to_move(place):
    values = TUNED[BIAS].copy()
    values[3] = np.nan
    base = place.model("base", BASE)
    place.pack(base, place.model("tuned", {**TUNED, BIAS: values}), exact=True)
    report = place.rebase("math", place.model("elsewhere", newer(names={Q})), base=base)
    assert {row.tensor: row.reason for row in report.conflicts.tensors}[BIAS] == "it holds NaN or infinity"
    assert np.isnan(rebuilt(place.skill("math"), place.root / "elsewhere")[BIAS].float32()[3])
    with pytest.raises(NotFiniteError, match="bias"):
        place.rebase("math@1", place.model("there", newer(names={BIAS})), base=base)


@pytest.mark.parametrize(
    ("theirs", "result"),
    [
        (CONFIG, {"vocab_size": 40, "labels": {"a": 0, "b": 1}, "skill": True}),
        ({**CONFIG, "rope": 2}, {"vocab_size": 40, "labels": {"a": 0, "b": 1}, "rope": 2, "skill": True}),
        (
            {"vocab_size": 40, "labels": {"a": 0, "b": 1}, "new": 1},
            {"vocab_size": 40, "labels": {"a": 0, "b": 1}, "new": 1, "skill": True},
        ),
    ],
)
def test_files_are_merged(place, theirs, result):
    base = place.model("base", BASE, config=CONFIG)
    tuned = place.model("tuned", TUNED, config={"vocab_size": 40, "labels": {"a": 0, "b": 1}, "skill": True})
    place.pack(base, tuned)
    new = place.model("newer", newer(), config=theirs)
    if theirs != CONFIG:
        with pytest.raises(UsageError, match=r"distance|changes config\.json"):
            place.rebase("math", new)
    place.rebase("math", new, base=base)
    skillpack.install("math", new, store=place.store)
    assert json.loads((new / "config.json").read_text()) == result
    skillpack.remove(["math"], new)
    assert json.loads((new / "config.json").read_text()) == theirs


def test_files_that_both_changed_are_refused_and_named(place):
    base = place.model("base", BASE, config=CONFIG, tokenizer={"vocab": {"x": 1}, "list": ["p"]})
    tuned = {"vocab": {"x": 1, "y": 2}, "list": ["p", "q"]}
    place.pack(base, place.model("tuned", TUNED, config=CONFIG, tokenizer=tuned))
    for number, (theirs, where) in enumerate(
        [({"vocab": {"x": 1, "y": 3}, "list": ["p"]}, "vocab/y"), ({"vocab": {"x": 1}, "list": ["p", "r"]}, "list/-")]
    ):
        new = place.model(f"newer{number}", newer(), config=CONFIG, tokenizer=theirs)
        with pytest.raises(ConflictError, match=f"both changed {where} in tokenizer.json") as raised:
            place.rebase("math", new, base=base)
        assert raised.value.exit_code == 1
    agreeing = place.model("agreeing", newer(), config=CONFIG, tokenizer=tuned)
    report = place.rebase("math", agreeing, base=base)
    assert report.files == ()
    without = place.model("without", newer(), config=CONFIG)
    with pytest.raises(WrongBaseError, match="does not have"):
        place.rebase("math@1", without, base=base)


def test_a_file_that_only_the_fine_tune_has(place):
    base = place.model("base", BASE)
    place.pack(base, place.model("tuned", TUNED, generation_config={"top_k": 1}))
    assert place.rebase("math", place.model("newer", newer()), base=base).files == ("generation_config.json",)
    new = place.model("both", newer(), generation_config={"top_k": 2})
    with pytest.raises(ConflictError, match=r"both changed generation_config\.json, to different"):
        place.rebase("math@1", new, base=base)


def test_the_card_says_where_it_comes_from(place, models):
    base, tuned, new = models
    first = place.pack(base, tuned, license="apache-2.0")
    place.rebase("math", new, base=base, message="The base was updated", author="Ada")
    shown = skillpack.show("math", store=place.store)
    assert (shown.summary.message, shown.summary.author) == ("The base was updated", "Ada")
    assert 'base_model: "newer"' in shown.card
    assert 'license: "apache-2.0"' in shown.card
    assert f"rebased from `math@1`, `{first.digest}`, which is for the base `base`" in shown.card
    assert str(place.root) not in shown.card
    (new / "README.md").write_text("---\nlicense: mit\n---\n")
    place.pack(base, tuned, "plain")
    place.rebase("plain", new, base=base)
    assert 'license: "mit"' in skillpack.show("plain", store=place.store).card


def test_a_dry_run_stores_nothing(place, models):
    base, tuned, new = models
    place.pack(base, tuned)
    before = sorted(path for path in place.store.rglob("*") if path.is_file())
    report = place.rebase("math", new, base=base, dry_run=True)
    assert (report.digest, report.version) == ("", None)
    assert sorted(path for path in place.store.rglob("*") if path.is_file()) == before
    done = place.rebase("math", new, base=base)
    assert done.size == report.size == skillpack.show("math", store=place.store).summary.size


def test_an_interruption_leaves_the_library_as_it_was(place, models):
    base, tuned, new = models
    place.pack(base, tuned)
    log, calls = skillpack.log(store=place.store), []
    place.rebase("math", new, base=base, dry_run=True, progress=lambda *call: calls.append(call))
    assert {what for _, _, what in calls} == {
        "checking the old base",
        "checking the new base",
        "comparing the bases",
        "coding",
    }
    for last in range(0, len(calls), 5):
        left = [last]

        def stop(*call, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            place.rebase("math", new, base=base, progress=stop)
        assert skillpack.log(store=place.store) == log
    assert place.rebase("math", new, base=base).version == 2
    assert skillpack.fsck(store=place.store).findings == []
