"""Keys and values in slots: a row's logits are those of its sequence alone, whatever its neighbours are and do."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from skillpack.errors import UnsupportedCheckpointError
from skillpack.serving.stepping import Stepper
from tests.live.models import SIZES

ROWS, PIECE, CLOSE = 4, 8, 2e-4


def model(name="Llama", **more):
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**{**SIZES, **more})
    model_class = "GPT2LMHeadModel" if name == "GPT2" else f"{name}ForCausalLM"
    return getattr(transformers, model_class)(config).eval()


@pytest.fixture(scope="module")
def llama():
    return model()


def alone(model, tokens):
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0, -1]


def read(stepper, prompt, start=0):
    while start < len(prompt):
        start, logits = stepper.read((), prompt, start)
    return logits


class Sequences(RuleBasedStateMachine):
    """Sequences that come, go on and leave in any order."""

    def __init__(self):
        super().__init__()
        self.model = model()
        self.stepper = Stepper(self.model, None, rows=ROWS, piece=PIECE)
        self.rows = []

    @precondition(lambda self: len(self.rows) < ROWS)
    @rule(length=st.integers(1, 40), seed=st.integers(0, 9))
    def come(self, length, seed):
        prompt = torch.randint(0, 256, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
        logits = read(self.stepper, prompt)
        torch.testing.assert_close(logits, alone(self.model, prompt), rtol=CLOSE, atol=CLOSE)
        self.stepper.start_row(len(self.rows), len(prompt))
        self.rows.append([*prompt, int(logits.argmax())])

    @precondition(lambda self: self.rows)
    @rule()
    def go_on(self):
        logits = self.stepper.next(
            [()] * len(self.rows), [row[-1] for row in self.rows], [len(row) - 1 for row in self.rows]
        )
        for row, found in zip(self.rows, logits, strict=True):
            torch.testing.assert_close(found, alone(self.model, row), rtol=CLOSE, atol=CLOSE)
            row.append(int(found.argmax()))

    @precondition(lambda self: self.rows)
    @rule(place=st.integers(0, ROWS - 1))
    def leave(self, place):
        place %= len(self.rows)
        last = len(self.rows) - 1
        self.stepper.end_row(place, len(self.rows[place]), last, len(self.rows[last]))
        self.rows[place] = self.rows[last]
        self.rows.pop()

    @invariant()
    def nothing_is_left_of_those_who_left(self):
        for kept in self.stepper.slots._tensors():
            assert not kept[1 + len(self.rows) :].any()


Sequences.TestCase.settings = settings(max_examples=12, stateful_step_count=16, deadline=None)
test_sequences = Sequences.TestCase


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("Mistral", {"sliding_window": 64}),
        ("Qwen2", {}),
        ("Gemma2", {"head_dim": 8, "sliding_window": 64, "attn_implementation": "eager"}),
        ("Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
        ("GPTNeoX", {}),
        ("GPT2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
        ("Bloom", {"n_head": 4, "n_layer": 2, "hidden_size": 32, "max_position_embeddings": 64}),
        ("OPT", {"ffn_dim": 48, "word_embed_proj_dim": 32}),
    ],
)
def test_other_models(name, more):
    other = model(name, **more)
    stepper = Stepper(other, None, rows=2, piece=PIECE)
    stepper.check()
    rows = []
    for length in (21, 5):
        prompt = torch.arange(length).tolist()
        logits = read(stepper, prompt)
        torch.testing.assert_close(logits, alone(other, prompt), rtol=CLOSE, atol=CLOSE)
        stepper.start_row(len(rows), length)
        rows.append([*prompt, int(logits.argmax())])
    for _ in range(3):
        found = stepper.next([(), ()], [row[-1] for row in rows], [len(row) - 1 for row in rows])
        for row, logits in zip(rows, found, strict=True):
            torch.testing.assert_close(logits, alone(other, row), rtol=CLOSE, atol=CLOSE)
            row.append(int(logits.argmax()))


def test_the_context_is_what_every_layer_sees(llama):
    assert Stepper(llama, None, rows=1, piece=PIECE).context == 128
    assert Stepper(model("Mistral", sliding_window=64), None, rows=1, piece=PIECE).context == 64


def test_a_prompt_is_read_to_the_same_bits_whoever_is_there(llama):
    prompt = torch.arange(30).tolist()
    lonely = read(Stepper(llama, None, rows=4, piece=PIECE), prompt)
    stepper = Stepper(llama, None, rows=4, piece=PIECE)
    read(stepper, list(range(100, 190)))
    stepper.start_row(0, 90)
    assert torch.equal(read(stepper, prompt), lonely)


def test_memory_is_given_back(llama):
    stepper = Stepper(llama, None, rows=4, piece=PIECE)
    read(stepper, list(range(100)))
    assert stepper.slots.nbytes > 4 * 100 * 2 * 32
    stepper.slots.clear(0, 100)
    stepper.slots.shrink()
    assert stepper.slots.nbytes == 0
    torch.testing.assert_close(read(stepper, [1, 2, 3]), alone(llama, [1, 2, 3]), rtol=CLOSE, atol=CLOSE)


def test_rows_that_disturb_each_other_are_found(llama):
    careless = copy.deepcopy(llama)
    forward = careless.forward
    careless.forward = lambda **inputs: forward(**{**inputs, "attention_mask": None})
    with pytest.raises(UnsupportedCheckpointError, match="disturb each other"):
        Stepper(careless, None, rows=2, piece=PIECE).check()


def test_models_that_keep_something_else_are_refused():
    config = transformers.MambaConfig(vocab_size=258, hidden_size=16, num_hidden_layers=2)
    with pytest.raises(UnsupportedCheckpointError, match="keeps more than keys and values"):
        Stepper(transformers.MambaForCausalLM(config), None, rows=1, piece=PIECE)
    config = transformers.T5Config(vocab_size=258, d_model=16, d_ff=16, d_kv=4, num_layers=1, num_heads=2)
    with pytest.raises(UnsupportedCheckpointError, match="does not continue texts"):
        Stepper(transformers.T5ForConditionalGeneration(config), None, rows=1, piece=PIECE)
