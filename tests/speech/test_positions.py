"""Positions are common to all utterances, from both ends, and as many as were asked for."""

import numpy as np
import pytest

from sslsim.speech.positions import positions, stride_for

LENGTHS = [1, 2, 5, 40, 41, 57, 300, 1499]


def test_all_are_taken_at_one_and_none_where_none_are_wanted():
    for n in LENGTHS:
        assert positions(n, 1.0).tolist() == list(range(n))
    assert stride_for(LENGTHS, None) == stride_for(LENGTHS, sum(LENGTHS)) == 1.0
    none = stride_for(LENGTHS, 0)
    assert [positions(n, none).tolist() for n in LENGTHS] == [[]] * len(LENGTHS)


def test_what_the_rule_gives():
    assert positions(20, 4.0).tolist() == [2, 6, 13, 17]
    assert positions(21, 4.0).tolist() == [2, 6, 10, 14, 18]
    assert positions(12, 2.5).tolist() == [1, 3, 8, 10]


@pytest.mark.parametrize("stride", [1.0, 1.2, 2.5, 7.0, 33.3, 400.0])
def test_halves_are_at_the_same_places_of_all_utterances(stride):
    longest = positions(3001, stride)
    for n in LENGTHS:
        kept = positions(n, stride)
        assert (np.diff(kept) > 0).all()
        assert len(kept) == 0 or (kept[0] >= 0 and kept[-1] < n)
        first = -(-len(kept) // 2)
        assert kept[:first].tolist() == longest[:first].tolist()
        assert (n - 1 - kept[first:]).tolist() == (3000 - longest[len(longest) - len(kept) // 2 :]).tolist()


@pytest.mark.parametrize("most", [0, 1, 7, 20, 100, 880, 1900, 1944])
def test_the_least_stride_that_takes_no_more_than_wanted(most):
    def taken(stride):
        return sum(len(positions(n, stride)) for n in LENGTHS)

    stride = stride_for(LENGTHS, most)
    assert taken(stride) <= most < taken(stride * (1 - 1e-9))
    assert taken(stride) >= most - 2 * len(LENGTHS)
    assert stride_for([2 * n for n in LENGTHS], most) > stride
