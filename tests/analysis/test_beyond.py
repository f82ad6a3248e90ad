"""What models share beyond what is given, along depth, and how measures of frames settle."""

from __future__ import annotations

import numpy as np
import pytest

import sslsim
from sslsim import Resampling, analysis
from sslsim.activations.store import Stores
from sslsim.comparison.tables import same_depth
from sslsim.measures.neighbours import chance_in_common


@pytest.fixture
def stores(tmp_path):
    """Return three models of three families that share what is given and nothing else, and it."""
    rng = np.random.default_rng(0)
    z = rng.standard_normal((300, 3)).astype("f4")
    made = [sslsim.from_arrays(name, _model(rng, z), tmp_path, family=name) for name in "abc"]
    return Stores(made), z


def _model(rng, z):
    mixing = rng.standard_normal((3, 4))
    return {
        f"u{u}": np.stack([part @ mixing + rng.standard_normal((30, 4)) for _ in range(2)]).astype("f4")
        for u, part in enumerate(np.split(z, 10))
    }


def test_plain_and_partial_similarity_stand_side_by_side(stores):
    models, z = stores
    deep = analysis.beyond(models, z, resampling=Resampling(permutations=5, blocks=3), device="cpu")
    assert list(deep.measure.unique()) == ["linreg_r2", "linreg_r2 of the rest"]
    above = (deep.value - deep.chance).groupby(deep.measure).mean()
    assert above["linreg_r2"] > 0.2
    assert abs(above["linreg_r2 of the rest"]) < 0.03
    assert set(deep.relation) == {"other family"}


def test_measures_of_frames_settle_by_how_many_they_compare(stores, monkeypatch):
    monkeypatch.setattr(analysis.layers, "FRAMES", (100, 200))
    monkeypatch.setattr(analysis.layers, "SAMPLE", 150)
    models, _ = stores
    settled = analysis.convergence(models, ["mutual_knn", "linreg_r2"], [("a", "b")], device="cpu")
    sizes = settled.groupby("measure").n_frames.agg(list)
    assert sizes["linreg_r2"] == [100, 200, 300]
    assert sizes["mutual_knn"] == [100, 200]
    assert settled.enough.isna().tolist() == (settled.measure == "mutual_knn").tolist()


def test_chance_of_shared_neighbours_is_known_without_mismatches(stores):
    models, _ = stores
    made = sslsim.evidence(models, ["mutual_knn", "linreg_r2"], resampling=Resampling(1, 0, 0, elsewhere=0))
    table = made.table()
    far = ~same_depth(table)
    of_frames = table.measure == "mutual_knn"
    assert (table.chance[far & of_frames] == chance_in_common(300)).all()
    assert table.chance[far & ~of_frames].isna().all()
    assert table.chance[~far].notna().all()
    assert chance_in_common(11) == 1
