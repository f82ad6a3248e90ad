"""Layers that one huge neuron dominates, and what raw CKA says of them."""

import numpy as np
from worlds import World

import sslsim
from sslsim import analysis

MEASURES = ["linear_cka_biased", "linear_cka_biased_raw", "linear_cka_dropped"]


def test_one_huge_neuron_dominates_its_layer_and_is_what_raw_cka_speaks_of(tmp_path):
    size = {"neurons": 12, "utterances": 12, "frames": 30}
    models = World("half", 3, outlier=True, **size).models(tmp_path)
    spread = analysis.concentrations(models)
    assert spread.dominated.all()
    assert (spread.top_neuron == 11).all()
    assert not analysis.concentrations(World("half", 3, **size).models(tmp_path)).dominated.any()
    table = sslsim.compare(models, MEASURES)
    why = analysis.raw_against_standardised(table, spread)
    assert len(why) == 4
    np.testing.assert_allclose(why.difference, why.raw - why.standardised)
    assert (why.difference.abs() > 0.1).all()
    assert (why.raw < 0.1).all()
    assert (why.dropped > 0.3).all()  # without the huge one, and two more of eleven, much is back
    assert len(analysis.raw_against_standardised(table, spread, n=1)) == 1
