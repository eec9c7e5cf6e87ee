"""What pictures of a comparison show."""

import io
from itertools import combinations

import numpy as np
import pytest
from matplotlib.image import imread

from skillpack.comparing.comparison import CompareReport, Pair, Place
from skillpack.comparing.drawing import draw_comparison, figure_of, left_out_of_picture
from skillpack.comparing.maps import MAPS, blocks_of
from skillpack.comparing.measures import Figures
from skillpack.comparing.verdicts import Verdict


def report_of(names, layers=12):
    """Figures that are drawn at random, between all skills."""
    draw = np.random.default_rng(0)

    def figures():
        overlaps = draw.uniform(0, 0.3, 2).tolist()
        return Figures(draw.uniform(-0.4, 0.6), draw.uniform(0.3, 0.6), draw.uniform(0.3, 0.6), *overlaps, 0.01)

    def pair(first, second):
        places = [Place(f"model.layers.{number}", figures(), (1.0, 1.0)) for number in range(layers)]
        places.append(Place("rest", figures(), (1.0, 1.0)))
        return Pair(first, second, figures(), 1.0, 1.0, Verdict("none", "They do not clash."), tuple(places), ())

    pairs = tuple(pair(first, second) for first, second in combinations(names, 2))
    return CompareReport(tuple(names), tuple(names), 8, pairs, {})


@pytest.fixture
def three():
    return report_of(["math", "code", "a name with a $ in it"])


def test_there_are_panels_of_all_three_figures(three):
    figure = figure_of(three)
    titles = {panel.get_title() for panel in figure.axes} | {panel.get_xlabel() for panel in figure.axes}
    for one in MAPS:
        assert {one.name, f"{one.name}, layer by layer"} <= titles
    matrices = [panel.images[0].get_array() for panel in figure.axes[:3]]
    for one, shown in zip(MAPS, matrices, strict=True):
        wanted = one.value(three.pairs[0].total)
        assert shown[0, 1] == shown[1, 0] == pytest.approx(wanted)
        assert shown.mask[0, 0] or np.isnan(shown.data[0, 0])
    rows = figure.axes[3].images[0].get_array()
    assert rows.shape == (3, 12)
    assert rows[2, 11] == pytest.approx(MAPS[0].value(three.pairs[2].layers[11].figures))


def test_only_what_can_be_negative_has_two_colours(three):
    limits = [panel.images[0].get_clim() for panel in figure_of(three).axes[:3]]
    assert [low < 0 for low, _ in limits] == [True, False, False]
    assert all(high > 0 for _, high in limits)


def test_blocks_are_in_the_order_of_the_model(three):
    assert blocks_of(three) == [f"model.layers.{number}" for number in range(12)]


def test_what_cannot_be_compared_is_grey():
    alone = report_of(["math", "code"], layers=2)
    nothing = Figures(None, None, None, None, None, None)
    pair = alone.pairs[0]
    places = (Place("model.layers.0", nothing, (0.0, 1.0)), *pair.layers[1:])
    report = CompareReport(alone.names, alone.digests, 8, (Pair(*pair_fields(pair, places)),), {})
    rows = figure_of(report).axes[3].images[0].get_array()
    assert np.isnan(rows.data[0, 0]) or rows.mask[0, 0]
    assert not np.isnan(rows.data[0, 1])


def pair_fields(pair, places):
    fields = {name: getattr(pair, name) for name in Pair.__dataclass_fields__}
    return tuple((fields | {"layers": places}).values())


@pytest.mark.parametrize(("count", "whole"), [(30, True), (31, False), (100, False)])
def test_a_whole_library_fits_a_picture(count, whole, tmp_path):
    report = report_of([f"skill-{number}" for number in range(count)], layers=4)
    draw_comparison(report, tmp_path / "all.png")
    height, width, _ = imread(io.BytesIO((tmp_path / "all.png").read_bytes())).shape
    assert max(height, width) < 20_000
    assert len(figure_of(report).axes) == (9 if whole else 6)
    note = left_out_of_picture(report)
    assert (note is None) == whole
    assert whole or f"{count} skills" in note
