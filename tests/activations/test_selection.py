from __future__ import annotations

import pickle

import numpy as np
import pytest

from sslsim.activations import selection
from sslsim.activations.selection import (
    check_between,
    check_measures,
    check_stores,
    layer_views,
    lengths_of,
    on_rows,
)
from sslsim.errors import SslsimError


def test_frames_are_at_common_positions_of_all_utterances(make_store):
    store = make_store(frames=(5, 40, 12))
    for frames, expected in ((None, None), (57, None), (99, None), (8, [8, 14, 20, 29, 35, 41, 48, 53]), (2, [11, 38])):
        first, *_ = views = layer_views([store], frames)
        assert [view.label for view in views] == [("model", 0), ("model", 1), ("model", 2)]
        assert first.frames is None if expected is None else first.frames.tolist() == expected
        assert first.shape == (57 if expected is None else len(expected), 6)
        counts = {None: (5, 40, 12), 8: (0, 6, 2), 2: (0, 2, 0)}[None if expected is None else frames]
        assert lengths_of(views) == counts


@pytest.mark.parametrize("small", [0, 2**22])
def test_a_view_reads_runs_of_its_frames(make_store, monkeypatch, small):
    monkeypatch.setattr(selection, "SMALL", small)
    view = layer_views([make_store()], 9)[1]
    whole = view.store.layer(1)[:]
    np.testing.assert_array_equal(view[2:5], whole[view.frames[2:5]])
    np.testing.assert_array_equal(on_rows([view], np.array([1, 7]))[0][0:2], whole[view.frames[[1, 7]]])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(view))[0:9], whole[view.frames])
    every = layer_views([view.store], None)[1]
    np.testing.assert_array_equal(every[50:57], whole[50:])
    np.testing.assert_array_equal(on_rows([every], np.arange(57) % 2 == 0)[0][0:3], whole[[0, 2, 4]])


def test_what_cannot_be_compared_is_refused(make_store):
    a, b, short = make_store("A"), make_store("B"), make_store("C", frames=(5,))
    for ask, message in (
        (lambda: check_stores([]), "nothing to compare: no store given; extract at least one checkpoint"),
        (lambda: check_stores([a, b, a]), "two stores have the name 'A'; give each checkpoint its own name"),
        (lambda: check_stores([a, short]), "layers cannot be paired: A and C hold other utterances"),
        (
            lambda: layer_views([a], 1),
            "frames is 1; at common positions of 3 utterances that is 0; give more of the 57",
        ),
        (lambda: check_measures("svcca"), "measures is 'svcca'; give a list of at least one name"),
        (lambda: check_measures([]), r"measures is \[\]; give a list of at least one name"),
        (lambda: check_between(["AB"], [a, b]), "between holds 'AB'; each item must be two names of checkpoints"),
        (lambda: check_between([("A", "b")], [a, b]), "between names 'b', which is not among the stores"),
        (lambda: check_between([], [a, b]), "between is empty; give pairs of names of checkpoints, or None for all"),
    ):
        with pytest.raises(SslsimError, match=message):
            ask()
    pairs = {frozenset("A"), frozenset("AB"), frozenset("B")}
    assert check_between(None, [a, b]) == pairs
    assert check_between([("B", "A")], [a, b]) == {frozenset("AB")}
