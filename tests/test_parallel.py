"""Calls spread over workers: in order, all accounted for, and failures not hidden."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from sslsim.parallel import results


def test_results_come_in_the_order_of_the_calls():
    gates = [threading.Event() for _ in range(6)]
    gates[-1].set()

    def call(i):
        gates[i].wait(5)
        gates[i - 1].set()  # each lets the one before it go: they end in reverse
        return i, torch.get_num_threads()

    ended = []
    with ThreadPoolExecutor(6) as executor:
        found = list(results(call, [(i,) for i in range(6)], executor=executor, done=ended.append))
    assert found == [(i, 1) for i in range(6)]  # one thread of torch each
    assert sorted(ended) == list(range(6))


def test_no_calls_give_nothing():
    assert list(results(abs, [])) == []


def test_a_failure_is_raised_and_the_rest_is_cancelled():
    before, ran = torch.get_num_threads(), []

    def call(i):
        ran.append(i)
        if i == 2:
            raise ValueError("the third")
        if i == 9:
            time.sleep(0.05)
        return i

    with ThreadPoolExecutor(1) as executor:
        found = results(call, [(i,) for i in range(3)] + [(9,)] * 100, executor=executor)
        assert [next(found), next(found)] == [0, 1]
        with pytest.raises(ValueError, match="the third"):
            next(found)
    assert len(ran) < 103
    assert torch.get_num_threads() == before


@pytest.mark.parametrize("ahead", [1, 3])
def test_no_more_is_computed_ahead_than_asked_for(ahead):
    ran = []
    found = results(lambda i: ran.append(i) or i, [(i,) for i in range(20)], ahead=ahead)
    for i in range(20):
        assert next(found) == i
        time.sleep(0.01)
        assert len(ran) <= i + ahead
    assert sorted(ran) == list(range(20))


def test_threads_of_our_own_are_as_many_as_torch_uses():
    seen = set()
    gate = threading.Barrier(torch.get_num_threads(), timeout=5)

    def call():
        seen.add(threading.current_thread().name)
        gate.wait()

    list(results(call, [()] * torch.get_num_threads()))
    assert len(seen) == torch.get_num_threads()
    assert all(name.startswith("sslsim") for name in seen)
