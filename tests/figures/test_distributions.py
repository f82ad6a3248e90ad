"""Distributions of best matches: shapes and medians at the numbers of the table."""

import numpy as np
import pandas as pd
import pytest
from made_tables import no_trace  # noqa: F401

from sslsim.errors import SslsimError
from sslsim.figures import best_matches, partners_against_null

pytestmark = pytest.mark.usefixtures("no_trace")


@pytest.fixture
def partners():
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"model_x": ["alpha", "beta"] * 20, "layer_x": 0, "neuron_x": range(40), "model_y": "gamma"})
    table = table.assign(value=-rng.uniform(0.6, 0.9, 40), rotated=rng.uniform(0.4, 0.5, 40), relation="other seed")
    table = table.assign(chance=rng.uniform(0.1, 0.2, 40))
    return pd.concat([table.assign(relation="untrained"), table])


def shapes(ax):
    """Return the ends of the shapes along y."""
    extents = [shape.get_paths()[0].get_extents() for shape in ax.collections if shape.get_paths()]
    return {(round(e.y0, 6), round(e.y1, 6)) for e in extents}


def test_best_matches_have_a_shape_a_relation_and_the_median_of_each_model(partners):
    (ax,) = best_matches(partners).axes
    assert [t.get_text() for t in ax.get_xticklabels()] == ["other seed", "untrained"]
    assert ax.get_ylim() == (0, 1.02)
    sizes = partners.value.abs()
    assert shapes(ax) == {(round(sizes.min(), 6), round(sizes.max(), 6))}
    marks = {line.get_label(): line.get_ydata() for line in ax.lines if line.get_marker() not in ("", "None")}
    for model in ("alpha", "beta"):
        assert marks[model] == pytest.approx([sizes[partners.model_x == model].median()] * 2)


def test_best_matches_of_heads_keep_their_sign(partners):
    (ax,) = best_matches(partners.drop(columns="neuron_x")).axes
    assert ax.get_ylim() == (-1, 1.02)
    assert shapes(ax) == {(round(partners.value.min(), 6), round(partners.value.max(), 6))}


def test_partners_stand_beside_what_the_same_neurons_find_by_chance(partners):
    (ax,) = partners_against_null(partners).axes
    assert [t.get_text() for t in ax.get_xticklabels()] == ["other seed", "untrained"]
    kinds = ["best match", "in random bases", "on mismatched utterances"]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == kinds
    columns = (partners.value.abs(), partners.rotated, partners.chance)
    assert shapes(ax) == {(round(c.min(), 6), round(c.max(), 6)) for c in columns}
    assert ax.get_ylim() == (0, 1.02)


def test_what_has_no_partners_is_refused(partners):
    with pytest.raises(SslsimError, match="no column rotated, chance; give one from sslsim.evidence"):
        partners_against_null(partners.drop(columns=["rotated", "chance"]))
    for draw in (best_matches, partners_against_null):
        with pytest.raises(
            SslsimError, match="no best matches to draw; compare at least two checkpoints, by a measure"
        ):
            draw(partners[:0])
