"""Which tokens a model reads of a sample, and which of its predictions count."""

from __future__ import annotations

import pytest
import torch

from skillpack.errors import DataError
from skillpack.live.batches import encode
from skillpack.texts import Sample
from tests.live import models

QUESTION = {"role": "user", "content": "Say é"}
CHAT = Sample(messages=(QUESTION, {"role": "assistant", "content": "é!"}))
LONG = Sample(
    messages=(
        {"role": "system", "content": "Short."},
        QUESTION,
        {"role": "assistant", "content": "one "},
        QUESTION,
        {"role": "assistant", "content": "two"},
    )
)


@pytest.fixture(scope="module")
def tokenizer():
    return models.tokenizer()


def read(samples, tokenizer, max_tokens=500, batch_tokens=10_000, **options):
    return encode(samples, tokenizer, max_tokens, batch_tokens, **options)


def scored_text(batch, tokenizer, row=0):
    """What the predictions of a row that count are about."""
    return tokenizer.decode(batch.input_ids[row, 1:][batch.scored[row, :-1]])


def whole_text(batch, tokenizer, row=0):
    return tokenizer.decode(batch.input_ids[row][batch.attention_mask[row].bool()])


def test_answers_of_a_chat_count_with_their_end_token(tokenizer):
    (batch,) = read([CHAT], tokenizer)
    text = "<|im_start|>user\nSay é<|im_end|>\n<|im_start|>assistant\né!<|im_end|>\n"
    assert whole_text(batch, tokenizer) == text
    assert scored_text(batch, tokenizer) == "é!<|im_end|>"
    assert tokenizer.decode(batch.targets) == "é!<|im_end|>"
    assert batch.sample.tolist() == [0] * len(batch.targets)


def test_every_answer_of_a_longer_chat_counts(tokenizer):
    (batch,) = read([LONG], tokenizer)
    assert scored_text(batch, tokenizer) == "one <|im_end|>two<|im_end|>"


def test_an_answer_that_was_cut_off_has_no_end(tokenizer):
    (batch,) = read([Sample(messages=CHAT.messages, cut=True)], tokenizer)
    assert scored_text(batch, tokenizer) == "é!"


def test_a_prompt_ends_where_the_answer_begins(tokenizer):
    (batch,) = read([Sample(messages=(QUESTION,))], tokenizer)
    assert whole_text(batch, tokenizer).endswith("<|im_start|>assistant\n")
    assert not batch.scored.any()
    assert batch.sample.tolist() == batch.targets.tolist() == []


def test_all_of_a_text_but_its_first_token_counts(tokenizer):
    batches = read([Sample(text="abcd")], tokenizer)
    assert scored_text(batches[0], tokenizer) == "bcd"


def test_what_is_longer_is_cut(tokenizer):
    (batch,) = read([Sample(text="abcdefgh"), CHAT], tokenizer, max_tokens=5)
    assert batch.input_ids.shape == (2, 5)
    assert batch.sample.tolist() == [0] * 4
    full = read([CHAT], tokenizer)[0].input_ids.shape[1]
    (batch,) = read([CHAT], tokenizer, max_tokens=full - 2)
    assert scored_text(batch, tokenizer) == "é!"


def test_batches_hold_all_samples_and_no_more_than_asked(tokenizer):
    samples = [Sample(text="x" * length) for length in (3, 9, 30, 4, 2, 1, 8)]
    batches = read(samples, tokenizer, batch_tokens=18)
    assert batches[0].input_ids.shape == (1, 30)
    assert all(batch.input_ids.numel() <= 18 for batch in batches[1:])
    counts = torch.cat([batch.sample for batch in batches]).bincount(minlength=7)
    assert counts.tolist() == [2, 8, 29, 3, 1, 0, 7]
    for batch in batches:
        assert not batch.scored[batch.attention_mask == 0].any()
        assert batch.nbytes == 8 * batch.input_ids.numel()


def test_a_classifier_predicts_once_for_each_sample(tokenizer):
    (batch,) = read([Sample(text="abc"), Sample(text="abcdef")], tokenizer, whole=True)
    assert batch.sample.tolist() == [1, 0]
    assert batch.scored.nonzero().tolist() == [[0, 5], [1, 2]]
    batches = read([Sample(text="a")] * 3, tokenizer, batch_tokens=0, whole=True)
    assert [len(batch.input_ids) for batch in batches] == [1, 1, 1]


def test_empty_samples_are_left_out(tokenizer):
    assert read([Sample(text="")], tokenizer) == []


UNENDED = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
REWRITING = (
    "{% if add_generation_prompt %}{{ messages[-1]['content'] }} > "
    "{% else %}{{ messages | length }}{{ messages[-1]['content'] }}{% endif %}"
)


@pytest.mark.parametrize("template", [UNENDED, REWRITING])
def test_a_template_that_does_not_end_answers(template):
    tokenizer = models.tokenizer(template)
    for sample, expected in ((CHAT, "é!<|im_end|>"), (Sample(messages=CHAT.messages, cut=True), "é!")):
        (batch,) = read([sample], tokenizer)
        assert scored_text(batch, tokenizer) == expected


def test_a_template_that_rewrites_earlier_answers():
    """As those of models that think: what they thought is only in the last answer."""
    tokenizer = models.tokenizer(
        "{% for m in messages %}[{{ m['role'] }}]{% if loop.last and m['role'] == 'assistant' %}<think></think>"
        "{% endif %}{{ m['content'] }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    (batch,) = read([LONG], tokenizer)
    assert scored_text(batch, tokenizer) == "<think></think>two<|im_end|>"
    assert "one" in whole_text(batch, tokenizer)


def test_without_a_template_the_answer_follows_the_prompt():
    tokenizer = models.tokenizer(None)
    (batch,) = read([CHAT], tokenizer)
    assert whole_text(batch, tokenizer) == "Say éé!<|im_end|>"
    assert scored_text(batch, tokenizer) == "é!<|im_end|>"
    with pytest.raises(DataError, match="no chat template"):
        read([LONG], tokenizer)


def test_a_chat_that_the_template_refuses():
    tokenizer = models.tokenizer("{{ raise_exception('system turns are not known') }}")
    with pytest.raises(
        DataError, match="the turns user, assistant does not fit the model's chat template: system turns are not"
    ):
        read([CHAT], tokenizer)


def test_a_tokenizer_that_does_not_know_where_tokens_come_from(tokenizer):
    class Slow:
        is_fast = False

        def __getattr__(self, name):
            return getattr(tokenizer, name)

        def __call__(self, text, **options):
            return tokenizer(text, **options)

    (fast,), (slow,) = read([LONG], tokenizer), read([LONG], Slow())
    assert torch.equal(fast.input_ids, slow.input_ids)
    assert torch.equal(fast.scored, slow.scored)
