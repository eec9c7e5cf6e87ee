"""What `compare` says of skills, against figures computed from the models themselves."""

import numpy as np
import pytest

import skillpack
from skillpack.errors import NotFoundError, UsageError, WrongBaseError
from tests.comparing.conftest import NORMS


def whole(deltas, names):
    """The deltas of a skill as one vector over these tensors."""
    return np.concatenate([deltas.get(name, np.zeros(size)).reshape(-1) for name, size in names])


def cosine_of(one, other):
    names = sorted({(name, delta.size) for side in (one, other) for name, delta in side.items()})
    first, second = whole(one, names), whole(other, names)
    return first @ second / np.linalg.norm(first) / np.linalg.norm(second)


def test_against_the_models(library, deltas):
    found = skillpack.compare(["math", "code", "head"], base=library.base, store=library.store)
    assert found.names == ("math", "code", "head")
    assert found.left_out == {}
    for pair in found.pairs:
        one, other = deltas(pair.first), deltas(pair.second)
        assert pair.total.cosine == pytest.approx(cosine_of(one, other), abs=1e-6)
        norms = [np.sqrt(sum(np.square(delta).sum() for delta in own.values())) for own in (one, other)]
        assert pair.norm_ratio == pytest.approx(max(norms) / min(norms), rel=1e-5)
        shares = [
            {name: np.square(delta).sum() / norm**2 for name, delta in own.items()}
            for own, norm in zip((one, other), norms, strict=True)
        ]
        assert pair.shared_energy == pytest.approx(
            sum(min(share, shares[1].get(name, 0)) for name, share in shares[0].items()), rel=1e-5
        )
        assert {place.name for place in pair.tensors} == one.keys() | other.keys()
        for place in pair.tensors:
            energies = [np.square(own[place.name]).sum() if place.name in own else 0 for own in (one, other)]
            assert place.energies == pytest.approx(energies, rel=1e-5)
            if all(energies):
                assert place.figures.cosine == pytest.approx(
                    cosine_of({"": one[place.name]}, {"": other[place.name]}), abs=1e-6
                )
        assert [place.name for place in pair.layers][-1] == "rest" or pair.second == "head"


def test_layers_add_up(library):
    (pair,) = skillpack.compare(["math", "code"], base=library.base, store=library.store).pairs
    assert [place.name for place in pair.layers] == ["layers.0", "layers.1", "rest"]
    for side in (0, 1):
        total = sum(place.energies[side] for place in pair.tensors)
        assert sum(place.energies[side] for place in pair.layers) == pytest.approx(total)


def test_packs_with_factors(lossy, library, deltas):
    (pair,) = skillpack.compare(["math", "code"], base=library.base, store=lossy).pairs
    skills = [skillpack.show(name, store=lossy).skill for name in ("math", "code")]
    assert all(any(skill.factors(entry) is not None for entry in skill.manifest.tensors) for skill in skills)
    packed = []
    for skill in skills:
        found = {name: delta for name, delta in deltas(skill.name).items() if name in NORMS}
        coded = [entry for entry in skill.manifest.tensors if entry.name not in NORMS]
        packed.append(found | {entry.name: skill.decode(entry, None).delta.astype(float) for entry in coded})
    assert pair.total.cosine == pytest.approx(cosine_of(*packed), abs=1e-5)


def test_matrices_are_symmetric(library):
    found = skillpack.compare(["math", "again", "code"], base=library.base, store=library.store)
    for matrix, own in ((found.cosine, 1.0), (found.sign_conflict, 0.0), (found.overlap, 1.0)):
        assert matrix == tuple(zip(*matrix, strict=True))
        assert [matrix[index][index] for index in range(3)] == [own] * 3
    assert found.cosine[0][1] > 0.9
    assert abs(found.cosine[0][2]) < 0.2
    assert found.to_json()["cosine"][0] == list(found.cosine[0])


def test_weights_scale_and_turn(library):
    plain, turned = (
        skillpack.compare(["math", other], base=library.base, store=library.store).pairs[0]
        for other in ("code", "code=-2")
    )
    assert turned.total.cosine == pytest.approx(-plain.total.cosine)
    assert turned.total.conflict == pytest.approx(1 - plain.total.conflict, abs=1e-3)
    assert turned.norm_ratio == pytest.approx(2 * plain.norm_ratio) or plain.norm_ratio > 1


def test_without_the_base_what_is_exact_is_left_out(library, lossy):
    found = skillpack.compare(["math", "norms"], store=library.store)
    assert set(found.left_out) == {*NORMS, "embed.weight", "layers.0.up.weight", "layers.1.down.weight"}
    assert "without the base" in found.left_out["embed.weight"]
    (pair,) = found.pairs
    assert pair.total.cosine is None
    assert pair.norm_ratio is None
    assert pair.tensors == ()
    assert set(skillpack.compare(["math", "code"], store=lossy).left_out) == set(NORMS)


def test_versions_of_one_skill(library, tmp_path):
    store = tmp_path / "store"
    for name in ("math", "again"):
        skillpack.export(name, tmp_path / f"{name}.tar", store=library.store)
        skillpack.import_skill(tmp_path / f"{name}.tar", "both", store=store)
    found = skillpack.compare(["both@1", "both@2"], base=library.base, store=store)
    assert found.names == ("both@1", "both@2")
    assert found.cosine[0][1] > 0.9


@pytest.mark.parametrize(
    ("addresses", "error", "message"),
    [
        (["math"], UsageError, "two skills"),
        (["math", "math"], UsageError, "named twice"),
        (["math", "nothing"], NotFoundError, "nothing"),
        (["math", "elsewhere"], WrongBaseError, "math and elsewhere"),
        (["math", "code=x"], UsageError, "no weight"),
        (["math", "code=0"], UsageError, "weight"),
    ],
)
def test_refusals(library, addresses, error, message):
    with pytest.raises(error, match=message):
        skillpack.compare(addresses, store=library.store)


def test_another_base_is_refused(library):
    with pytest.raises(WrongBaseError, match="another base"):
        skillpack.compare(["math", "code"], base=library.other, store=library.store)
    with pytest.raises(UsageError, match="0 directions"):
        skillpack.compare(["math", "code"], rank=0, store=library.store)


def test_pictures_are_the_same_for_the_same_figures(library, tmp_path):
    from skillpack.comparing.drawing import draw_comparison

    found = skillpack.compare(["math", "code", "head"], base=library.base, store=library.store)
    for kind, start in (("png", b"\x89PNG"), ("svg", b"<?xml")):
        for name in ("one", "two"):
            draw_comparison(found, tmp_path / f"{name}.{kind}")
        content = (tmp_path / f"one.{kind}").read_bytes()
        assert content.startswith(start)
        assert content == (tmp_path / f"two.{kind}").read_bytes()
    with pytest.raises(UsageError, match="picture"):
        draw_comparison(found, tmp_path / "one.txt")
