from __future__ import annotations

from collections import Counter

import pytest
import torch

from skillpack.composing.learned.examples import Examples, digest_of_samples, read_groups
from skillpack.errors import DataError, UsageError
from skillpack.live.models import open_model, open_tokenizer
from skillpack.texts import Sample
from tests.live import models


@pytest.fixture(scope="module")
def model(tiny):
    return open_model(tiny.base)


@pytest.fixture
def make(tiny, model):
    def made(groups, *, labelled=True, batch=2, max_tokens=64):
        return Examples(
            groups,
            model,
            tiny.tokenizer,
            batch=batch,
            max_tokens=max_tokens,
            seed=1,
            labelled=labelled,
        )

    return made


def test_every_text_has_its_turn_before_one_comes_again(make):
    texts = [Sample(text="x" * length) for length in range(2, 8)]
    examples = make([texts])
    seen = Counter()
    for _ in range(6):
        for piece in examples.draw():
            seen.update(piece.batch.attention_mask.sum(1).tolist())
    assert seen == dict.fromkeys(range(2, 8), 2)


def test_tasks_count_the_same_however_long_their_texts_are(make):
    examples = make([[Sample(text="ab"), Sample(text="abc")], [Sample(text="a" * 40), Sample(text="b" * 30)]])
    (piece,) = examples.draw()
    shares = {}
    for sample, share in zip(piece.batch.sample.tolist(), piece.shares.tolist(), strict=True):
        shares[sample >= 2] = shares.get(sample >= 2, 0.0) + share
    assert shares == pytest.approx({False: 1.0, True: 1.0})


def test_targets_are_the_next_tokens(make):
    (piece,) = make([[Sample(text="abc")]]).draw()
    torch.testing.assert_close(piece.targets, piece.batch.input_ids[0, 1:])
    (piece,) = make([[Sample(text="abc")]], labelled=False).draw()
    assert piece.targets is None


def test_prompts_without_answers_predict_nothing(make):
    prompts = [Sample(messages=({"role": "user", "content": "Hi"},))] * 2
    with pytest.raises(DataError, match="nothing in the data"):
        make([prompts], labelled=False)
    with pytest.raises(DataError, match="2 of 2 prompts have no answer"):
        make([prompts])


def test_all_texts_once(make):
    texts = [Sample(text="x" * length) for length in range(2, 9)]
    pieces = make([texts[:3], texts[3:]]).all()
    assert sum(len(piece.batch.input_ids) for piece in pieces) == 7
    assert sum(float(piece.shares.sum()) for piece in pieces) == pytest.approx(2.0)


def test_what_predicts_nothing_is_refused(make):
    with pytest.raises(DataError, match="nothing in the data"):
        make([[Sample(text="a")]])
    with pytest.raises(UsageError):
        make([[Sample(text="abc")]], batch=0)


def test_labels_go_with_their_texts(tmp_path):
    base = models.bert(tmp_path / "base", dtype=torch.float32)
    texts = [Sample(text="x" * (place + 1), label=place % 3) for place in range(6)]

    def pieces(group, labelled=True):
        model, tokenizer = open_model(base), open_tokenizer(base)
        return Examples(group, model, tokenizer, batch=3, max_tokens=64, seed=0, labelled=labelled).draw()

    for piece in pieces([texts]):
        lengths = piece.batch.attention_mask.sum(1)
        torch.testing.assert_close(piece.targets, (lengths - 1) % 3)
    assert all(piece.targets is None for piece in pieces([texts], labelled=False))
    with pytest.raises(DataError, match="no labels"):
        pieces([[Sample(text="abc")]])


def test_sources(tmp_path):
    first, second = tmp_path / "a.txt", tmp_path / "b.jsonl"
    first.write_text("one\n\ntwo\n")
    second.write_text('{"prompt": "Hi", "completion": "Ho"}\n')
    assert [len(group) for group in read_groups(first)] == [2]
    assert [len(group) for group in read_groups([first, second])] == [2, 1]
    assert read_groups([Sample(text="a"), Sample(text="b")]) == [[Sample(text="a"), Sample(text="b")]]
    with pytest.raises(UsageError, match="no texts"):
        read_groups([])
    assert digest_of_samples(read_groups(first)) == digest_of_samples([[Sample(text="one"), Sample(text="two")]])
    assert digest_of_samples(read_groups(first)) != digest_of_samples(read_groups(second))
