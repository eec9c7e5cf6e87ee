import pytest

import skillpack
from skillpack.errors import DamagedSkillError
from skillpack.kinds import Kind, by_kind
from skillpack.manifest import Part, TensorEntry

DIGEST = "sha256:" + "0" * 64


def entry(name, **fields):
    main = None if "same_as" in fields else Part("raw", {}, (100,))
    return TensorEntry(
        name, "BF16", (10, 10), **{"reference": name, "reference_digest": DIGEST, "main": main, **fields}
    )


def kinds(*names):
    return {kind.name: kind.tensors for kind in by_kind(entry(name) for name in names)}


def test_show_prints_a_table_by_kind(library, run):
    result = run("show", "math")
    assert (result.exit_code, result.stderr) == (0, "")
    head, table = result.stdout.split("\n\n")
    skill = skillpack.show("math").skill
    assert head.startswith("math version 2\n")
    for line in (
        f"digest: {skill.digest}",
        f"base: {skill.manifest.base_fingerprint}",
        "tensors changed: 9",
        "tensors gone: model.inv_freq",
        "files changed: config.json (patch)",
    ):
        assert line in head.splitlines()
    rows = {line.partition("  ")[0]: line for line in table.splitlines()}
    assert set(rows) == {
        *("modules", "embed_tokens", "q_proj", "up_proj", "norms", "score (new)", "1 file", "manifest, headers")
    }
    assert rows["q_proj"].split()[1] == "2"
    assert "lowrank" in rows["up_proj"]


def test_the_rows_add_up_to_the_size(library, run, run_json):
    found = run_json("show", "math")
    coded = sum(kind["bytes"] for kind in found["kinds"]) + sum(file["bytes"] for file in found["files"])
    assert sum(tensor["bytes"] for tensor in found["tensors"]) == sum(kind["bytes"] for kind in found["kinds"])
    last = run("show", "math").stdout.splitlines()[-1]
    assert last.startswith("manifest, headers")
    assert f"{(found['size'] - coded) / 1000:.2f} kB" in last


def test_show_tensors(library, run):
    lines = run("show", "math", "--tensors").stdout.splitlines()
    (line,) = (line for line in lines if line.startswith("model.layers.1.mlp.up_proj.weight"))
    assert line.split()[1:3] == ["BF16", "32x16"]
    assert len([line for line in lines if ".weight " in line]) == 9


def test_exact_parts_have_no_error(library, run_json):
    assert all(kind["error"] == [0, 0] and kind["rank"] is None for kind in run_json("show", "math@1")["kinds"])
    found = {kind["kind"]: kind for kind in run_json("show", "math")["kinds"]}
    low, high = found["up_proj"]["rank"]
    assert 1 <= low <= high <= 16
    assert found["up_proj"]["error"][1] > 0


def test_the_bound_of_what_is_approximated(library, run, run_json):
    found = run_json("show", "math")
    kinds = {kind["kind"]: kind for kind in found["kinds"]}
    for kind in found["kinds"]:
        assert (kind["bound"] is None) == (kind["error"][1] == 0)
    up = kinds["up_proj"]
    assert up["over_bound"] == up["bytes"] / up["bound"] > 1
    assert found["bound"] == sum(kind["bound"] or 0 for kind in found["kinds"])
    rough = sum(kind["bytes"] for kind in found["kinds"] if kind["bound"] is not None)
    assert found["over_bound"] > rough / found["bound"]
    text = run("show", "math").stdout
    assert f"takes {found['over_bound']:.3g} times that" in text
    rows = {line.partition("  ")[0]: line.split() for line in text.splitlines()}
    assert rows["up_proj"][-1] == f"{up['over_bound']:.3g}"
    assert float(rows["norms"][-1]) == 0


def test_a_lossless_skill_has_no_bound(library, run, run_json):
    found = run_json("show", "math@1")
    assert (found["bound"], found["over_bound"]) == (None, None)
    assert "bound: " not in run("show", "math@1").stdout


def test_a_skill_without_bounds_shows_none():
    old = entry("up.weight", main=Part("lowrank", {"columns": [2]}, (100,)), error=0.5)
    kind = Kind.of("up", [old])
    assert (kind.bound, kind.over_bound) == (None, None)
    none = Kind.of("up", [entry("up.weight", main=Part("lowrank", {"columns": [2]}, (100,)), error=1.5, bound=0)])
    assert (none.bound, none.over_bound) == (0, None)


def test_show_card(library, run):
    assert run("show", "math", "--card").stdout == skillpack.show("math").card


def test_kinds_are_named_by_the_shortest_name_of_their_own():
    assert kinds(
        "bert.encoder.layer.0.attention.output.dense.weight",
        "bert.encoder.layer.0.attention.output.dense.bias",
        "bert.encoder.layer.1.output.dense.weight",
        "bert.encoder.layer.1.intermediate.dense.weight",
        "bert.encoder.layer.11.attention.self.query.weight",
        "bert.encoder.layer.11.attention.output.LayerNorm.weight",
        "bert.embeddings.LayerNorm.bias",
    ) == {"attention.output.dense": 2, "layer.output.dense": 1, "intermediate.dense": 1, "query": 1, "norms": 2}
    assert kinds("transformer.h.0.ln_1.weight", "transformer.ln_f.bias", "transformer.h.0.mlp.c_fc.weight") == {
        "norms": 2,
        "c_fc": 1,
    }
    assert kinds("m.layers.0.experts.3.up.weight", "m.layers.0.experts.4.up.weight", "m.layers.0.shared.up.weight") == {
        "experts.up": 2,
        "shared.up": 1,
    }
    assert kinds("proj.weight", "out.proj.weight", "weight") == {"proj": 1, "out.proj": 1, "weight": 1}


def test_new_and_tied_tensors():
    new = entry("score.weight", reference=None, reference_digest=None)
    tied = entry("lm_head.weight", same_as="embed.weight")
    found = {kind.name: kind for kind in by_kind([new, tied, entry("embed.weight")])}
    assert set(found) == {"score (new)", "lm_head", "embed"}
    assert (found["lm_head"].codecs, found["lm_head"].nbytes, found["lm_head"].bits_per_weight) == (("tied",), 0, 0)
    assert found["embed"].bits_per_weight == 8


def test_a_tensor_of_many_axes_has_a_rank_along_each_that_has_a_factor():
    parameters = {"axes": [0, 2], "slices": [[1, 2], [0, 7]]}
    stack, nothing = (
        entry(f"{name}.weight", main=Part("tucker", found, (1,)))
        for name, found in (("experts", parameters), ("other", {"axes": []}))
    )
    kind = Kind.of(stack.name, [stack])
    assert (kind.codecs, kind.ranks) == (("tucker",), (3, 7))
    assert Kind.of(nothing.name, [nothing]).ranks == (0, 0)
    both = Kind.of("all", [stack, entry("up.weight", main=Part("lowrank", {"columns": [9]}, (1,)))])
    assert (both.codecs, both.ranks) == (("lowrank", "tucker"), (3, 9))


@pytest.mark.parametrize(
    ("codec", "parameters"),
    [
        ("lowrank", {}),
        ("lowrank", {"columns": None}),
        ("lowrank", {"columns": ["x"]}),
        ("tucker", {}),
        ("tucker", {"axes": [0]}),
        ("tucker", {"axes": [0], "slices": [3]}),
        ("tucker", {"axes": [0], "slices": [["x"]]}),
    ],
)
def test_a_hostile_rank_is_an_error(codec, parameters):
    bad = entry("up.weight", main=Part(codec, parameters, (1,)))
    with pytest.raises(DamagedSkillError, match="rank"):
        Kind.of(bad.name, [bad])
