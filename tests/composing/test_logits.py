"""Logit fusion in `generate`: what it writes is what the formula gives on whole texts, one forward pass per step."""

from __future__ import annotations

import copy
import gc
import shutil
import weakref
from types import SimpleNamespace

import pytest
import torch
import transformers
from transformers.utils import logging

import skillpack
from skillpack.composing.fusing import fuse, fusion_weights
from skillpack.errors import ConflictError, NotFoundError, UnsupportedModelError, UsageError
from tests.live import models

SKILLS = ["math", "code"]
NEW = 8


def gpt2(folder):
    torch.manual_seed(7)
    config = transformers.GPT2Config(
        vocab_size=models.VOCABULARY, n_positions=40, n_embd=32, n_layer=1, n_head=4, initializer_range=0.3
    )
    return models.save(folder, transformers.GPT2LMHeadModel(config), torch.float32)


SMALL = {"llama": lambda folder: models.llama(folder, seed=3, num_hidden_layers=1), "gpt2": gpt2}


@pytest.fixture(scope="session", autouse=True)
def _quiet():
    logging.disable_progress_bar()
    yield
    logging.enable_progress_bar()


@pytest.fixture(scope="session", params=SMALL)
def pair(request, tmp_path_factory):
    return make_pair(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="session")
def llamas(tmp_path_factory):
    return make_pair("llama", tmp_path_factory.mktemp("llamas"))


def make_pair(name, root):
    """A large Llama, a small model with the same tokens and two skills, and what they give without any cache."""
    large, small, store = models.llama(root / "large", seed=0), SMALL[name](root / "small"), root / "store"
    for seed, skill in enumerate(SKILLS, 1):
        tuned = models.moved(small, root / skill, scale=0.3, seed=seed)
        skillpack.pack(small, tuned, skill, quality=0.9, store=store)
    merged = skillpack.host(load(small), store=store)
    variants = {}
    for skill in [None, *SKILLS]:
        with merged.using(*([skill] if skill else [])):
            variants[skill] = copy.deepcopy(merged.model)
    return SimpleNamespace(
        large=large, small=small, store=store, variants=variants, reference=load(large), root=root, load=load
    )


def load(folder, dtype=torch.float32):
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()


@pytest.fixture
def fusion(pair):
    """Function: fusion of fresh models."""

    def fusion(skills=("math",), **options):
        large = options.pop("large", None) or load(pair.large)
        return skillpack.LogitFusion(large, load(pair.small), list(skills), store=pair.store, **options)

    return fusion


def prompts(lengths=(5, 5, 5), seed=0):
    ids = torch.randint(3, 250, (len(lengths), max(lengths)), generator=torch.Generator().manual_seed(seed))
    mask = torch.arange(max(lengths)) >= max(lengths) - torch.tensor(lengths)[:, None]
    return {"input_ids": torch.where(mask, ids, 257), "attention_mask": mask.long()}


def whole(model, ids, mask):
    """Logits of the last token, from the whole text."""
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask, position_ids=positions).logits[:, -1]


def by_hand(pair, ids, mask, skills, alpha):
    """Log-probabilities of the next token, every model run on the whole text."""
    large, base = whole(pair.reference, ids, mask), whole(pair.variants[None], ids, mask)
    tuned = torch.stack([whole(pair.variants[skill], ids, mask) for skill in skills])
    return fuse(large, base, tuned, alpha)


OPTIONS = {"max_new_tokens": NEW, "do_sample": False, "eos_token_id": None, "pad_token_id": 257}
SCORES = {"return_dict_in_generate": True, "output_scores": True}


@pytest.mark.parametrize("alpha", [None, 1.0, 0.4])
@pytest.mark.parametrize("skills", [["math"], SKILLS], ids=["one", "two"])
@pytest.mark.parametrize("lengths", [(5, 5, 5), (2, 9, 1, 6)], ids=["even", "padded"])
def test_greedy_answers_are_those_of_the_formula(pair, fusion, lengths, skills, alpha):
    inputs = prompts(lengths)
    found = fusion(skills, alpha=alpha).generate(**inputs, **OPTIONS, **SCORES)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    for scores in found.scores:
        expected = by_hand(pair, ids, mask, skills, alpha)
        assert (scores - expected).abs().max() < 5e-3
        assert torch.equal(found.sequences[:, ids.shape[1]], expected.argmax(-1))
        ids = torch.cat([ids, expected.argmax(-1, keepdim=True)], 1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], 1)
    assert torch.equal(found.sequences, ids)
    plain = pair.reference.generate(**inputs, **OPTIONS)
    assert not torch.equal(plain, found.sequences)


@pytest.mark.parametrize(
    "options",
    [{}, {"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 2}, {"do_sample": True, "num_return_sequences": 3}],
    ids=["greedy", "beams", "several", "sampled"],
)
def test_with_kept_keys_and_values_as_without(fusion, options):
    inputs, found = prompts((3, 8, 1)), []
    for use_cache in (True, False):
        torch.manual_seed(11)
        options = {**OPTIONS, **options, **SCORES, "use_cache": use_cache}
        found.append(fusion(SKILLS, use_cache=use_cache).generate(**inputs, **options))
    assert torch.equal(found[0].sequences, found[1].sequences)
    for ours, anew in zip(found[0].scores, found[1].scores, strict=True):
        assert torch.allclose(ours.exp(), anew.exp(), atol=1e-4)


def test_beams_are_reordered(pair, fusion, monkeypatch):
    """The test above would pass without a reordering if beams never changed places."""
    orders = []
    own = transformers.DynamicCache.reorder_cache
    fused = fusion()

    def reorder(self, order):
        orders.append((self, order))
        own(self, order)

    monkeypatch.setattr(transformers.DynamicCache, "reorder_cache", reorder)
    fused.generate(**prompts(), **OPTIONS, num_beams=4)
    # Of the small model the base and the skill go the same way.
    ours = [order for _, order in orders if len(order) == 2 * 3 * 4]
    assert any(not torch.equal(order, torch.arange(24)) for order in ours)
    assert all(torch.equal(order[:12] + 12, order[12:]) for order in ours)


def test_assisted_decoding_gives_the_greedy_answer(fusion):
    inputs = prompts((6,))
    expected = fusion().generate(**inputs, **OPTIONS)
    assert torch.equal(fusion().generate(**inputs, **OPTIONS, prompt_lookup_num_tokens=2), expected)


def test_sampling_draws_from_what_is_fused(fusion):
    inputs = prompts()
    greedy = fusion().generate(**inputs, **OPTIONS)
    drawn = fusion().generate(**inputs, **{**OPTIONS, "do_sample": True}, top_k=1)
    assert torch.equal(greedy, drawn)


def test_a_step_is_one_pass_of_one_token(fusion, monkeypatch):
    fused, seen = fusion(SKILLS), []
    small = fused._host.model
    own = type(small).forward

    def forward(self, *args, **kwargs):
        if self is small:
            seen.append(tuple(kwargs["input_ids"].shape))
        return own(self, *args, **kwargs)

    monkeypatch.setattr(type(small), "forward", forward)
    fused.generate(**prompts(), **OPTIONS)
    assert seen == [(9, 5), *[(9, 1)] * (NEW - 1)]


def test_as_a_processor_for_the_models_own_generate(pair, fusion):
    fused = fusion()
    ids = prompts()["input_ids"]
    found = fused._large.generate(ids, **OPTIONS, logits_processor=[fused])
    assert torch.equal(found, fusion().generate(ids, **OPTIONS))
    assert fused.weights.shape == (1, 3)
    # Another batch, of other size and length, is another text.
    other = prompts((7, 7), seed=5)["input_ids"]
    again = fused._large.generate(other, **OPTIONS, logits_processor=[fused])
    assert torch.equal(again, fusion().generate(other, **OPTIONS))
    fused.reset()
    with pytest.raises(UsageError, match="what is padding cannot be told"):
        fused(prompts((2, 5))["input_ids"], torch.zeros(2, models.VOCABULARY))


def test_padding_that_ends_nothing_is_recognised(pair):
    large, small = load(pair.large), load(pair.small)
    tokenizers = models.tokenizer(pad_token="<|im_start|>"), models.tokenizer(pad_token="<|im_start|>")
    fused = skillpack.LogitFusion(large, small, "math", tokenizers=tokenizers, store=pair.store)
    inputs = prompts((2, 5))
    ids = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, 256)
    found = fused(ids, whole(large, ids, inputs["attention_mask"]))
    assert torch.allclose(found, by_hand(pair, ids, inputs["attention_mask"], ["math"], None), atol=5e-3)
    # The next text, of the same shape, is padded elsewhere.
    ids, mask = ids.flip(0), inputs["attention_mask"].flip(0)
    found = fused(ids, whole(large, ids, mask))
    assert torch.allclose(found, by_hand(pair, ids, mask, ["math"], None), atol=5e-3)


def test_the_weight_of_an_address_scales_the_skill(pair, fusion):
    inputs, fused = prompts(), fusion(["math=0.5"], alpha=1.0)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    halved = skillpack.host(load(pair.small), store=pair.store)
    halved.graft("math=0.5")
    large, base = whole(pair.reference, ids, mask), whole(pair.variants[None], ids, mask)
    expected = fuse(large, base, whole(halved.model, ids, mask)[None], 1.0)
    assert torch.allclose(fused(ids, large), expected, atol=5e-3)
    assert (expected - by_hand(pair, ids, mask, ["math"], 1.0)).abs().max() > 0.1


def test_weights_of_a_step_solve_the_constraint(pair, fusion):
    inputs, fused = prompts(), fusion(SKILLS)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    large, base = whole(pair.reference, ids, mask), whole(pair.variants[None], ids, mask)
    fused(ids, large)
    tuned = torch.stack([whole(pair.variants[skill], ids, mask) for skill in SKILLS])
    assert torch.allclose(fused.weights, fusion_weights(large, base, tuned), atol=2e-2)


def test_heads_with_rows_for_no_token(llamas):
    inputs = prompts()
    scores = {}
    for rows in (0, 6):
        large = load(llamas.large)
        if rows:
            large.resize_token_embeddings(models.VOCABULARY + rows, mean_resizing=False)
        fused = skillpack.LogitFusion(large, load(llamas.small), ["math"], store=llamas.store)
        found = fused.generate(**inputs, **OPTIONS, **SCORES)
        scores[rows] = torch.stack(found.scores)
    assert scores[6].shape[-1] == models.VOCABULARY + 6
    assert scores[6][..., models.VOCABULARY :].isneginf().all()
    assert torch.allclose(scores[6][..., : models.VOCABULARY], scores[0], atol=1e-3)


def test_models_of_other_precision(llamas):
    large = load(llamas.large, torch.bfloat16)
    fused = skillpack.LogitFusion(large, load(llamas.small, torch.bfloat16), ["math"], store=llamas.store)
    found = fused.generate(**prompts(), **OPTIONS, **SCORES)
    assert all(
        scores.isfinite().all() and torch.allclose(scores.exp().sum(-1), torch.ones(3)) for scores in found.scores
    )


def test_memory_is_freed(fusion):
    fused = fusion()
    caches = []
    own = fused._follower._checked
    fused._follower._checked = lambda cache: caches.append(weakref.ref(cache)) or own(cache)
    fused.generate(**prompts(), **OPTIONS)
    gc.collect()
    assert caches
    assert not [cache for cache in caches if cache() is not None]
    small = fused._host.model
    assert {each.name for each in fused._host.resident} == {"math"}
    fused.close()
    assert not fused._host.resident
    assert not [module for module in small.modules() if "forward" in vars(module)]


def test_skills_that_were_loaded_before_stay(pair):
    small = load(pair.small)
    host = skillpack.host(small, mode="overlay", store=pair.store)
    host.load("code")
    with skillpack.LogitFusion(load(pair.large), small, SKILLS, store=pair.store) as fused:
        fused.generate(**prompts(), **OPTIONS)
    assert [each.name for each in host.resident] == ["code"]


def test_what_is_on_the_small_model_stays_and_does_not_count(pair, fusion):
    small = load(pair.small)
    host = skillpack.host(small, mode="overlay", store=pair.store)
    host.graft("code")
    fused = skillpack.LogitFusion(load(pair.large), small, "math", store=pair.store)
    assert torch.equal(fused.generate(**prompts(), **OPTIONS), fusion().generate(**prompts(), **OPTIONS))
    fused.close()
    assert [each.name for each in host.installed] == ["code"]


def test_a_skill_means_what_it_meant_at_the_start(pair, fusion, tmp_path):
    fused, expected = fusion(), fusion().generate(**prompts(), **OPTIONS)
    store = tmp_path / "store"
    shutil.copytree(pair.store, store)
    fused = skillpack.LogitFusion(load(pair.large), load(pair.small), "math", store=store)
    skillpack.pack(pair.small, pair.root / "code", "math", quality=0.9, store=store)
    assert torch.equal(fused.generate(**prompts(), **OPTIONS), expected)


def test_models_that_cannot_be_followed_are_refused(llamas, tmp_path):
    torch.manual_seed(0)
    config = transformers.MambaConfig(vocab_size=models.VOCABULARY, hidden_size=16, num_hidden_layers=1, state_size=4)
    small, store = models.save(tmp_path / "small", transformers.MambaForCausalLM(config), torch.float32), tmp_path / "s"
    skillpack.pack(small, models.moved(small, tmp_path / "tuned", scale=0.3), "math", quality=0.9, store=store)
    model = load(small)
    # Its blocks have weights of their own, and layers in them.
    with pytest.raises(ConflictError, match="cannot differ by row"):
        skillpack.LogitFusion(load(llamas.large), model, "math", store=store)
    head = models.moved(small, tmp_path / "head", scale=0.3, names="norm_f")
    skillpack.pack(small, head, "head", quality=0.9, store=store)
    with pytest.raises(UnsupportedModelError, match="keeps no keys and values"):
        skillpack.LogitFusion(load(llamas.large), model, "head", store=store)
    assert not skillpack.host(model, mode="overlay", store=store).resident
    fused = skillpack.LogitFusion(load(llamas.large), model, "head", store=store, use_cache=False)
    ids = prompts()["input_ids"]
    found = fused.generate(ids, **OPTIONS, **SCORES)
    with torch.no_grad():
        large, base, own = (load(folder)(ids).logits[:, -1] for folder in (llamas.large, small, head))
    assert torch.allclose(found.scores[0].exp(), fuse(large, base, own[None]).exp(), atol=1e-2)


def test_an_error_in_between_leaves_nothing(fusion):
    fused = fusion()

    def fails(ids, scores):
        if ids.shape[1] > 7:
            raise RuntimeError("stop")
        return scores

    with pytest.raises(RuntimeError, match="stop"):
        fused.generate(**prompts(), **OPTIONS, logits_processor=[fails])
    assert fused._follower._cache is None
    assert torch.equal(fused.generate(**prompts(), **OPTIONS), fusion().generate(**prompts(), **OPTIONS))


def test_what_cannot_be_fused_is_refused(llamas, tmp_path):
    large, small = load(llamas.large), load(llamas.small)

    def refused(error, match, *arguments, **options):
        with pytest.raises(error, match=match):
            skillpack.LogitFusion(*arguments, store=llamas.store, **options)

    refused(UsageError, "nothing to fuse", large, small, [])
    refused(UsageError, "the same model", small, small, ["math"])
    refused(NotFoundError, "nowhere", large, small, ["nowhere"])
    refused(UsageError, "training mode", large, load(llamas.small).train(), ["math"])
    other = models.tokenizer()
    other.add_tokens(["<extra>"])
    refused(
        ConflictError, "different tokens: '<extra>'", large, small, ["math"], tokenizers=(other, models.tokenizer())
    )
    refused(
        ConflictError, "large model has logits for 258 .* knows 259", large, small, ["math"], tokenizers=(other, other)
    )
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 8, "decoder_ffn_dim": 8}
    bart = transformers.BartForConditionalGeneration(transformers.BartConfig(vocab_size=models.VOCABULARY, **sizes))
    refused(UnsupportedModelError, "has an encoder", bart, small, ["math"])
    assert not skillpack.host(small, mode="overlay", store=llamas.store).resident


def test_texts_that_cannot_be_followed_are_refused(llamas):
    fused = skillpack.LogitFusion(load(llamas.large), load(llamas.small), "math", store=llamas.store)
    with pytest.raises(UsageError, match="prompts are empty"):
        fused.generate(inputs_embeds=torch.zeros(1, 4, 32), max_new_tokens=2)
    with pytest.raises(UsageError, match="130 tokens, and the small model takes 128"):
        fused.generate(torch.full((1, 130), 5), max_new_tokens=1)
    fused._prompt_mask = torch.ones(2, 5)
    with pytest.raises(UsageError, match=r"prompts of shape \(2, 5\), and the batch has \(3, 5\)"):
        fused(torch.full((3, 5), 5), torch.zeros(3, models.VOCABULARY))
