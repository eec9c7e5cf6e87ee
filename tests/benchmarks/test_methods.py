"""Each method as a whole, on a tiny model."""

from __future__ import annotations

import doctest
import importlib
import json
import pkgutil

import pytest
import torch

import benchmarks.baselines
from benchmarks.baselines.bitdelta import BitDelta
from benchmarks.baselines.catalogue import METHODS
from benchmarks.baselines.changes import Changes, is_embedding
from benchmarks.baselines.compeft import ComPeft
from benchmarks.baselines.dare import Dare
from benchmarks.baselines.delta_come import DeltaCoMe
from benchmarks.baselines.graftllm import GraftLLM
from benchmarks.baselines.lora_extraction import LoraExtraction
from benchmarks.baselines.method import FILE
from benchmarks.baselines.moments import input_moments
from benchmarks.baselines.protocol import apply
from benchmarks.baselines.ultradelta import UltraDelta
from skillpack.checkpoint import open_checkpoint
from skillpack.safetensors_file import write_safetensors
from tests.benchmarks import models

EMBEDDING = "model.embed_tokens.weight"
SOME = [
    DeltaCoMe(),
    DeltaCoMe(left_groups="outputs", zero="free", share=0.8),
    GraftLLM(),
    GraftLLM(kept_bits=4),
    BitDelta(),
    BitDelta(unchanged="random"),
    Dare(drop=0.5),
    Dare(drop=0.5, bits=16, positions="golomb"),
    ComPeft(),
    ComPeft(alpha=None, scope="matrix"),
    UltraDelta(sparsity=0.5),
    UltraDelta(sparsity=0.5, zero="grid", rescale="matrix"),
]


def moments_of(base):
    model = apply(base, {})
    return input_moments(model, lambda: model(**models.random_tokens(4, 16)))


def values_of(folder):
    checkpoint = open_checkpoint(folder)
    return {name: torch.from_numpy(checkpoint.read(name).float32().copy()) for name in checkpoint.tensors}


def replaced(method, **settings):
    return type(method)(**{**method.settings(), **settings})


def missed(found, base, tuned):
    """Squared error of the linear layers, relative to their delta's squares."""
    names = [name for name, value in tuned.items() if value.ndim == 2 and not is_embedding(name)]
    errors = sum(float((found[name] - tuned[name]).square().sum()) for name in names)
    return errors / sum(float((base[name] - tuned[name]).square().sum()) for name in names)


@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("method", SOME, ids=repr)
def test_a_folder_gives_back_what_was_computed(pair, tmp_path, method, calibrated):
    base, tuned = pair
    moments = moments_of(base) if calibrated else {}
    size = method.save(base, tuned, tmp_path / "skill", moments=moments)
    assert size == sum(file.stat().st_size for file in (tmp_path / "skill").rglob("*"))
    found = type(method).load(tmp_path / "skill", base)

    changes, before = Changes(base, tuned, "coded"), values_of(base)
    code = method.coder(changes, moments)
    assert found.keys() == before.keys()
    for name in changes.coded:
        expected = before[name] + code(name, changes.delta(name)).matrix()
        assert torch.equal(found[name], expected), name
    for name in changes.whole:
        assert torch.equal(found[name], values_of(tuned)[name]), name


@pytest.mark.parametrize("method", SOME, ids=repr)
def test_the_file_holds_the_matrices_and_the_rest_whole_and_a_short_header(pair, tmp_path, method):
    from benchmarks.baselines.stream import Writer

    base, tuned = pair
    size = method.save(base, tuned, tmp_path / "skill")
    changes, stream = Changes(base, tuned, "coded"), Writer()
    code = method.coder(changes, {})
    for name in changes.coded:
        code(name, changes.delta(name)).write(stream)
    norms = sum(open_checkpoint(tuned).tensors[name].nbytes for name in changes.whole)
    assert norms == 5 * 48 * 2
    assert 0 < size - len(stream.data()) - norms < 500


@pytest.mark.parametrize("method", SOME, ids=repr)
def test_the_embedding_may_be_stored_whole_or_left_out(pair, tmp_path, method):
    base, tuned = pair
    sizes, found = {}, {}
    for embedding in ("coded", "whole", "base"):
        one = replaced(method, embedding=embedding)
        sizes[embedding] = one.save(base, tuned, tmp_path / embedding)
        found[embedding] = one.load(tmp_path / embedding, base)
    assert torch.equal(found["whole"][EMBEDDING], values_of(tuned)[EMBEDDING])
    assert EMBEDDING not in found["base"]
    assert sizes["whole"] == pytest.approx(sizes["base"] + models.VOCABULARY * 48 * 2, abs=9)
    assert sizes["base"] < sizes["coded"] < sizes["whole"]


@pytest.mark.parametrize("method", METHODS)
def test_a_sweep_goes_from_small_and_coarse_to_large_and_fine(pair, tmp_path, method):
    base, tuned = pair
    before, after = values_of(base), values_of(tuned)
    known = [replaced(one, embedding="base") for one in method.sweep() if one.embedding == "base"]
    points = []
    for number, one in enumerate(known):
        size = one.save(base, tuned, tmp_path / str(number))
        found = {**before, **one.load(tmp_path / str(number), base)}
        points.append((size, missed(found, before, after)))
    sizes, errors = zip(*points, strict=True)
    assert len({repr(one) for one in method.sweep()}) == len(method.sweep())
    if method is not BitDelta:
        assert max(sizes) > 1.5 * min(sizes)
        assert min(errors) < 0.3
    assert min(errors) < 1


def test_better_settings_bring_the_model_nearer_to_the_fine_tune(pair, tmp_path):
    base, tuned = pair
    batch, teacher = models.random_tokens(6, 12), apply(tuned, {})
    distances = []
    for share in (0.1, 0.4, 1.0):
        method = DeltaCoMe(share=share, columns=((8, 48),))
        method.save(base, tuned, tmp_path / str(share))
        student = apply(base, method.load(tmp_path / str(share), base))
        with torch.no_grad():
            distances.append(float((student(**batch).logits - teacher(**batch).logits).square().mean()))
    assert distances[2] < 0.05 * distances[1] < 0.05 * distances[0]


def test_calibration_lowers_the_error_on_the_inputs_it_has_seen(pair, tmp_path):
    base, tuned = pair
    moments = moments_of(base)
    after, costs = values_of(tuned), []
    method = DeltaCoMe(columns=((3, 20),))
    for number, one in enumerate((None, moments)):
        method.save(base, tuned, tmp_path / str(number), moments=one)
        found = method.load(tmp_path / str(number), base)
        costs.append(
            sum(
                float(torch.trace((found[name] - after[name]) @ moment @ (found[name] - after[name]).T))
                for name, moment in moments.items()
                if name in found and not is_embedding(name)
            )
        )
    assert costs[1] < 0.9 * costs[0]


def test_untied_heads_new_tensors_and_unchanged_ones_are_carried(tmp_path):
    base, tuned = models.write_pair(tmp_path, tied=False)
    checkpoint = open_checkpoint(tuned)
    tensors = {name: checkpoint.read(name) for name in checkpoint.tensors}
    same = "model.layers.0.mlp.up_proj.weight"
    tensors[same] = open_checkpoint(base).read(same)
    tensors["score.weight"] = tensors[EMBEDDING]
    (tmp_path / "other").mkdir()
    layout = {name: (one.dtype, one.shape) for name, one in tensors.items()}
    write_safetensors(tmp_path / "other" / "model.safetensors", layout, tensors.__getitem__, {"format": "pt"})

    method = DeltaCoMe(embedding="whole")
    method.save(base, tmp_path / "other", tmp_path / "skill")
    found = method.load(tmp_path / "skill", base)
    assert same not in found
    for name in ("lm_head.weight", "score.weight", EMBEDDING):
        assert torch.equal(found[name], torch.from_numpy(tensors[name].float32())), name


def test_apply_puts_tied_weights_in_once(pair):
    base, tuned = pair
    after = values_of(tuned)
    model = apply(base, after)
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    expected = apply(tuned, {})
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, expected.get_parameter(name)), name
    apply(base, {"lm_head.weight": after[EMBEDDING], EMBEDDING: after[EMBEDDING]})
    with pytest.raises(ValueError, match="tied"):
        apply(base, {"lm_head.weight": after[EMBEDDING] + 1, EMBEDDING: after[EMBEDDING]})
    with pytest.raises(ValueError, match="no tensor nothing"):
        apply(base, {"nothing": after[EMBEDDING]})
    with pytest.raises(ValueError, match="no tensor lm_head"):
        apply(base, {"lm_head.weight": after[EMBEDDING][:5]})


def test_folders_of_other_methods_and_used_folders_are_refused(pair, tmp_path):
    base, tuned = pair
    BitDelta().save(base, tuned, tmp_path)
    with pytest.raises(ValueError, match="written by BitDelta"):
        Dare.load(tmp_path, base)
    with pytest.raises(FileExistsError):
        BitDelta().save(base, tuned, tmp_path)


def test_the_header_is_readable(pair, tmp_path):
    base, tuned = pair
    Dare(drop=0.7).save(base, tuned, tmp_path)
    data = (tmp_path / FILE).read_bytes()
    header = json.loads(data[4 : 4 + int.from_bytes(data[:4], "little")])
    assert header["method"] == "DARE"
    assert header["settings"]["drop"] == 0.7
    assert len(header["tensors"]) == len(open_checkpoint(base).tensors)


def test_names_of_embeddings_are_known():
    yes = ["model.embed_tokens.weight", "lm_head.weight", "transformer.wte.weight", "gpt_neox.embed_in.weight"]
    yes += ["bert.embeddings.word_embeddings.weight", "embeddings.position_embeddings.weight"]
    no = ["model.layers.3.self_attn.q_proj.weight", "bert.embeddings.LayerNorm.weight", "model.norm.weight"]
    assert [is_embedding(name) for name in [*yes, *no]] == [True] * len(yes) + [False] * len(no)


@pytest.mark.filterwarnings(
    "ignore:Model (has|with) `tie_word_embeddings=True`:UserWarning",
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning",
)
def test_lora_extraction_is_the_truncated_decomposition(pair, tmp_path):
    base, tuned = pair
    before, after = values_of(base), values_of(tuned)
    extraction = LoraExtraction(base, tuned, 6, embedding=True)
    for rank in (1, 6):
        assert extraction.save(rank, tmp_path / str(rank)) == sum(
            file.stat().st_size for file in (tmp_path / str(rank)).iterdir()
        )
        model = extraction.load(tmp_path / str(rank))
        for name in ("model.layers.1.mlp.down_proj.weight", EMBEDDING):
            left, strengths, right = torch.linalg.svd(after[name] - before[name], full_matrices=False)
            expected = (left[:, :rank] * strengths[:rank]) @ right[:rank]
            found = model.get_parameter(name).detach() - before[name]
            assert (found - expected).norm() < 0.01 * expected.norm()


@pytest.mark.parametrize("module", [info.name for info in pkgutil.iter_modules(benchmarks.baselines.__path__)])
def test_the_examples_in_the_docstrings_are_right(module):
    found = doctest.testmod(importlib.import_module(f"benchmarks.baselines.{module}"))
    assert found.failed == 0
