"""Modules of tiny models: learned, attached, opened, applied; and what is refused."""

from __future__ import annotations

import pytest
import torch
import transformers

import skillpack
from skillpack.composing.surgery import learning, representing
from skillpack.composing.surgery.head import head_of
from skillpack.errors import (
    CheckpointError,
    DataError,
    NotFiniteError,
    NotFoundError,
    UnsupportedCheckpointError,
    UnsupportedModelError,
    UsageError,
    WrongBaseError,
)
from skillpack.live.models import open_model, open_tokenizer
from skillpack.texts import Sample
from tests.composing.surgery.conftest import ENGLISH, GERMAN, QUICK, samples
from tests.live import models


def learn(world, skill="both", expert="english", texts=None, base=None, **options):
    data = samples(ENGLISH) if texts is None else texts
    return skillpack.learn_surgery(skill, expert, data, base or world.base, store=world.store, **{**QUICK, **options})


def installed(world, name, folder, base=None):
    skillpack.install(name, base or world.base, output=folder / name, store=world.store)
    config = transformers.AutoConfig.from_pretrained(folder / name)
    kind = getattr(transformers, config.architectures[0])
    return kind.from_pretrained(folder / name, dtype=torch.float32).eval()


def kl(model, expert, inputs):
    with torch.inference_mode():
        ours, theirs = (each(**inputs).logits.log_softmax(-1) for each in (model, expert))
    return float((theirs.exp() * (theirs - ours)).sum(-1).mean())


class TestLanguageModels:
    def test_held_out_texts_come_nearer_to_the_expert(self, world, tmp_path):
        before = {each.name: each.digest for each in skillpack.list(store=world.store)}
        report = learn(world)
        assert report.after < 0.93 * report.before
        assert (report.name, report.task, report.predicts) == ("both", "english", "next token")
        assert (report.rank, report.width, report.texts, report.held_out) == (16, 32, 9, 3)
        assert report.positions == sum(len(text) - 1 for at, text in enumerate(ENGLISH, 1) if at % 4)
        assert {each.name: each.digest for each in skillpack.list(store=world.store)} == before
        surgery = skillpack.open_surgery("both", "english", store=world.store)
        assert (surgery.digest, surgery.attachment) == (report.digest, report.attachment)
        assert surgery.facts.after == report.after
        merged, expert = (installed(world, name, tmp_path) for name in ("both", "english"))
        inputs = dict(models.tokenizer()(ENGLISH[3], return_tensors="pt"))
        far, weights = kl(merged, expert, inputs), [weight.clone() for weight in merged.parameters()]
        with surgery.applied(merged):
            assert kl(merged, expert, inputs) < 0.95 * far
        assert kl(merged, expert, inputs) == far
        assert all(map(torch.equal, weights, merged.parameters()))

    def test_the_distance_is_that_of_what_the_head_is_fed(self, world, tmp_path):
        """The report's figures once more, by hooks on the installed models and the formula written out."""
        report = learn(world, rank=3)
        bias = skillpack.open_surgery("both", "english", store=world.store).bias
        fed = []
        for name in ("both", "english"):
            model = installed(world, name, tmp_path)
            model.lm_head.register_forward_pre_hook(lambda _, inputs: fed.append(inputs[0][0, :-1]))
            with torch.inference_mode():
                for text in ENGLISH[3::4]:
                    model(**models.tokenizer()(text, return_tensors="pt"))
        ours, theirs = torch.cat(fed[:3]), torch.cat(fed[3:])
        corrected = ours - torch.relu(ours @ bias.down.T) @ bias.up.T
        assert report.before == pytest.approx(float((ours - theirs).abs().mean()), rel=1e-3)
        assert report.after == pytest.approx(float((corrected - theirs).abs().mean()), rel=1e-3)

    def test_prompts_are_answered_by_the_expert(self, world, monkeypatch):
        written = []

        def complete(model, tokenizer, asked, tokens, **_):
            written.append(model.model.norm.weight.detach().float().clone())
            answer = {"role": "assistant", "content": "Yes."}
            return [Sample(messages=(*sample.messages, answer)) for sample in asked]

        monkeypatch.setattr(learning, "complete", complete)
        report = learn(world, texts=[Sample(messages=({"role": "user", "content": text},)) for text in GERMAN])
        assert len(written) == 1
        assert report.positions == 4 * len(b"Yes." + b"e")

    def test_generation_in_other_precisions_and_on_a_host(self, world, tmp_path):
        learn(world)
        surgery = skillpack.open_surgery("both", "english", store=world.store)
        model = transformers.AutoModelForCausalLM.from_pretrained(world.base).eval()
        host = skillpack.host(model, mode="overlay", store=world.store)
        inputs = models.tokenizer()("All models", return_tensors="pt")
        options = {"max_new_tokens": 4, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
        with host.using("both"):
            plain = model.generate(**inputs, **options).logits
            with surgery.applied(model):
                found = model.generate(**inputs, **options).logits
        assert not torch.equal(plain[0], found[0])
        half = installed(world, "both", tmp_path).bfloat16()
        with surgery.applied(half), torch.inference_mode():
            logits = half(**inputs).logits
        assert logits.dtype == torch.bfloat16
        torch.testing.assert_close(logits[:, -1].float(), found[0], rtol=0.1, atol=0.3)

    def test_of_many_positions_some_are_drawn(self, world, monkeypatch):
        monkeypatch.setattr(learning, "_STATES", 32 * 60)
        assert learn(world).positions == 60

    def test_the_newest_counts_and_older_ones_can_be_named(self, world):
        first, second = learn(world, rank=2), learn(world, rank=3)
        assert skillpack.open_surgery("both", "english", store=world.store).bias.rank == 3
        named = skillpack.open_surgery("both", "english", attachment=first.attachment, store=world.store)
        assert (named.bias.rank, named.attachment) == (2, first.attachment)
        assert second.nbytes > first.nbytes > 2 * 2 * 32 * 2

    def test_tasks_have_modules_of_their_own(self, world):
        learn(world)
        learn(world, expert="german", texts=samples(GERMAN))
        for task in ("english", "german"):
            assert skillpack.open_surgery("both", task, store=world.store).facts.task == task
        english = skillpack.open_surgery("both", "english", store=world.store).attachment
        with pytest.raises(DataError, match="learned for english, not german"):
            skillpack.open_surgery("both", "german", attachment=english, store=world.store)


WORDS = [
    *("one", "two", "three", "four", "five", "six", "seven", "eight", "red", "blue"),
    *("green", "sea", "sky", "dog", "cat", "house", "tree", "river"),
]
TEXTS = [Sample(text=f"{one} {other}") for place, one in enumerate(WORDS) for other in WORDS[place % 3 :: 3]]


class TestClassifiers:
    @pytest.mark.parametrize("decoder", [False, True])
    def test_held_out_texts_come_nearer_to_the_expert(self, world, tmp_path, decoder):
        base, skill, expert = world.classifier, "labels", "moods"
        if decoder:
            torch.manual_seed(0)
            config = transformers.LlamaConfig(**models.SIZES, num_labels=3)
            base = models.save(tmp_path / "base", transformers.LlamaForSequenceClassification(config), torch.float32)
            for seed, name in enumerate(("dogs", "cats"), start=1):
                tuned = models.moved(base, tmp_path / name, scale=0.3, seed=seed, names="layers")
                skillpack.pack(base, tuned, name, quality=0.99, store=world.store)
            skillpack.compose(["dogs=0.5", "cats=0.8"], "animals", base=base, store=world.store)
            skill, expert = "animals", "dogs"
        report = learn(world, skill, expert, TEXTS, base, batch=16)
        assert report.predicts == "class"
        assert report.after < 0.9 * report.before
        assert (report.texts, report.held_out, report.positions) == (81, 27, 81)
        surgery = skillpack.open_surgery(skill, expert, store=world.store)
        merged, alone = (installed(world, name, tmp_path / "installed", base) for name in (skill, expert))
        inputs = dict(models.tokenizer()([each.text for each in TEXTS], return_tensors="pt", padding=True))
        far = kl(merged, alone, inputs)
        with surgery.applied(merged):
            assert kl(merged, alone, inputs) < 0.9 * far

    def test_which_layer_is_the_head(self, tmp_path):
        sizes = {name: models.SIZES[name] for name in models.SIZES if "key_value" not in name and "_id" not in name}
        for kind, name in (("Bert", "classifier"), ("Roberta", "classifier.out_proj"), ("DistilBert", "classifier")):
            own = {} if kind != "DistilBert" else {"dim": 32, "hidden_dim": 48, "n_layers": 1, "n_heads": 4}
            config = getattr(transformers, f"{kind}Config")(**sizes, **own, num_labels=3)
            model = getattr(transformers, f"{kind}ForSequenceClassification")(config)
            assert head_of(model).module is model.get_submodule(name)
            assert (head_of(model).width, head_of(model).predicts) == (32, "class")

    @pytest.mark.parametrize("padding", [257, None])
    def test_a_decoder_reads_the_class_where_we_say(self, padding, tmp_path):
        """An end token that is also the padding is not read, whatever our batches count as the last token."""
        torch.manual_seed(0)
        config = transformers.LlamaConfig(**{**models.SIZES, "pad_token_id": padding}, num_labels=3)
        folder = models.save(tmp_path / "m", transformers.LlamaForSequenceClassification(config), torch.float32)
        model, tokenizer = open_model(folder), open_tokenizer(folder)
        texts = [Sample(text="abc"), Sample(text="abcdef<|im_end|>")]
        batches = representing.batches_of(texts, model, tokenizer, max_tokens=64, most=100, seed=0)
        stage = representing_stage()
        states = representing.representations(model, batches, torch.device("cpu"), stage)
        with torch.inference_mode():
            logits = torch.cat(
                [model(input_ids=each.input_ids, attention_mask=each.attention_mask).logits for each in batches]
            )
        torch.testing.assert_close(model.score(states), logits)


def representing_stage():
    from skillpack.progress import Stage, silent

    return Stage(silent, "reading", 1)


class TestRefusals:
    @pytest.mark.parametrize(
        ("change", "error", "words"),
        [
            ({"texts": []}, DataError, "no texts"),
            ({"texts": [Sample(text="a")]}, DataError, "nothing in the texts"),
            ({"expert": "stranger"}, WrongBaseError, "different bases"),
            ({"expert": "both"}, UsageError, "the same skill"),
            ({"expert": "nobody"}, NotFoundError, "nobody"),
            ({"expert": "english=0.5"}, UsageError, "weight"),
            ({"skill": "both=2"}, UsageError, "weight"),
            ({"rank": 0}, UsageError, "rank"),
            ({"rank": 33}, UsageError, "32 numbers"),
            ({"steps": 0}, UsageError, "steps"),
            ({"rate": 0.0}, UsageError, "rate"),
            ({"rate": 0.9, "steps": 20}, DataError, "no nearer"),
            ({"max_tokens": 1}, UsageError, "max_tokens"),
            ({"device": "warp"}, UsageError, "warp"),
        ],
    )
    def test_what_cannot_be_learned(self, world, change, error, words):
        with pytest.raises(error, match=words):
            learn(world, **change)
        self.nothing_attached(world)

    def test_another_base(self, world):
        with pytest.raises(WrongBaseError):
            learn(world, base=world.other)
        self.nothing_attached(world)

    def test_nan_in_representations(self, world, monkeypatch):
        fed = representing._fed
        monkeypatch.setattr(representing, "_fed", lambda *inputs: fed(*inputs) * float("nan"))
        with pytest.raises(NotFiniteError, match="NaN"):
            learn(world)
        self.nothing_attached(world)

    def test_models_of_two_kinds(self, world, tmp_path):
        """A skill may change config.json, and so the model's class."""
        base = transformers.AutoModelForCausalLM.from_pretrained(world.base)
        other = transformers.MistralForCausalLM(transformers.MistralConfig(**models.SIZES, tie_word_embeddings=True))
        other.load_state_dict(base.state_dict())
        folder = models.save(tmp_path / "mistral", other)
        skillpack.pack(world.base, folder, "mistral", store=world.store)
        with pytest.raises(CheckpointError, match="MistralForCausalLM"):
            learn(world, expert="mistral")

    def test_skills_that_are_alike(self, world):
        skillpack.compose(["english=1"], "again", base=world.base, store=world.store)
        if (
            skillpack.show("again", store=world.store).summary.digest
            == skillpack.show("english", store=world.store).summary.digest
        ):
            with pytest.raises(UsageError, match="the same skill"):
                learn(world, skill="again")
        else:
            with pytest.raises(DataError, match=r"alike|no nearer"):
                learn(world, skill="again")

    def nothing_attached(self, world):
        with pytest.raises(NotFoundError, match="no module for the task"):
            skillpack.open_surgery("both", "english", store=world.store)

    def test_models_that_a_module_does_not_fit(self, world, tmp_path):
        learn(world)
        surgery = skillpack.open_surgery("both", "english", store=world.store)
        wide = models.llama(tmp_path / "wide", hidden_size=64)
        for folder in (wide, world.classifier):
            kind = getattr(transformers, transformers.AutoConfig.from_pretrained(folder).architectures[0])
            model = kind.from_pretrained(folder)
            with pytest.raises(UnsupportedModelError, match="32 numbers"), surgery.applied(model):
                pass
        model = transformers.AutoModelForCausalLM.from_pretrained(world.base)
        with surgery.applied(model), pytest.raises(UsageError, match="already"), surgery.applied(model):
            pass
        assert not head_of(model).module._forward_pre_hooks
        compiled = torch.compile(model, backend="eager")
        with pytest.raises(UnsupportedModelError, match="compiled"), surgery.applied(compiled):
            pass
        with (
            pytest.raises(UnsupportedModelError, match="no model of transformers"),
            surgery.applied(torch.nn.Linear(2, 2)),
        ):
            pass
        encoder = transformers.AutoModel.from_pretrained(models.bert(tmp_path / "encoder", "BertModel"))
        with pytest.raises(UnsupportedCheckpointError), surgery.applied(encoder):
            pass

    def test_tokens_that_the_expert_does_not_know(self, world, tmp_path):
        texts = samples([text + "<|im_end|>" for text in ENGLISH])
        model = open_model(world.base)
        batches = representing.batches_of(texts, model, open_tokenizer(world.base), max_tokens=64, most=99, seed=0)
        small = models.llama(tmp_path / "small", vocab_size=200, bos_token_id=1, eos_token_id=1, pad_token_id=1)
        with pytest.raises(DataError, match="token 257"):
            representing.check_tokens(batches, open_model(small))
        representing.check_tokens(batches, model)
