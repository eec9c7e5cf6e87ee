"""Live tensors and stored ones are the same bits, and a cast is trusted only where it lost nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from skillpack.grafting.live_tensors import DTYPES, live, origins, same_bits, stamp, stored, write
from skillpack.tensors import Tensor

BITS = st.lists(st.integers(0, 2**16 - 1), min_size=1, max_size=40)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_there_and_back(dtype):
    values = torch.tensor([[0, 1, 3], [7, 2, 1]]).to(dtype)
    for view in (values, values.T, values[:, 1:], values[1, 2]):
        tensor = stored(view)
        assert (tensor.dtype, tensor.shape) == (DTYPES[dtype], tuple(view.shape))
        assert same_bits(live(tensor), view)
    read_only = np.frombuffer(stored(values).data.tobytes(), np.uint8)
    assert same_bits(live(Tensor(DTYPES[dtype], (2, 3), read_only)), values)


@given(BITS)
def test_every_bf16_value_is_recognised_in_fp32(bits):
    values = torch.tensor(bits, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)
    values = values[~values.isnan()]
    assert stored(values).digest() in [tensor.digest() for tensor in origins(values.float())]


@given(BITS)
def test_a_bf16_value_is_recognised_in_fp16_if_and_only_if_it_is_one(bits):
    values = torch.tensor(bits, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)
    values = values[~values.isnan()]
    half = values.half()
    found = stored(values).digest() in [tensor.digest() for tensor in origins(half)]
    assert found == same_bits(half.float(), values.float()) == same_bits(half.bfloat16(), values)


def test_bits_are_more_than_values():
    assert not same_bits(torch.tensor([0.0]), torch.tensor([-0.0]))
    assert same_bits(torch.tensor([float("nan")]), torch.tensor([float("nan")]))
    assert not same_bits(torch.zeros(2), torch.zeros(2, 1))
    assert not same_bits(torch.zeros(2), torch.zeros(2).half())


def test_writing_moves_the_version_on():
    target = torch.nn.Parameter(torch.zeros(3))
    before = stamp(target)
    write(target.detach()[1:], torch.ones(2))
    assert target.tolist() == [0, 1, 1]
    assert stamp(target) != before
    with torch.inference_mode():
        frozen = torch.zeros(3)
    write(frozen, torch.ones(3))
    assert frozen.tolist() == [1, 1, 1]
    assert stamp(frozen)[1] is None
