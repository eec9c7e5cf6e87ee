from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from skillpack.composing.selection import kept, kth_largest

NUMBERS = arrays(
    np.float32, st.integers(1, 60), elements=st.floats(-(2.0**100), 2.0**100, width=32, allow_subnormal=False)
)


@given(NUMBERS, st.data())
def test_the_kth_largest_magnitude_is_exact(values, data):
    ranks = data.draw(st.lists(st.integers(1, values.size), min_size=1, max_size=3))
    cut = data.draw(st.integers(0, values.size))
    found = kth_largest(lambda: iter([values[:cut], values[cut:]]), ranks)
    ordered = np.sort(np.abs(values))[::-1]
    assert found == [float(ordered[rank - 1]) for rank in ranks]


def test_how_many_are_kept():
    assert [kept(10, density) for density in (1, 0.5, 0.29, 0.01)] == [10, 5, 2, 1]
