"""Calls spread over workers: in order, all accounted for, and failures not hidden."""

import pickle
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from sslsim import parallel
from sslsim.activations.shards import Unwritable
from sslsim.errors import SslsimError
from sslsim.parallel import executor, results
from sslsim.speech.recording import AudioError


def test_results_come_in_the_order_of_the_calls():
    gates = [threading.Event() for _ in range(6)]
    gates[-1].set()

    def call(i):
        gates[i].wait(5)
        gates[i - 1].set()  # each lets the one before it go: they end in reverse
        return i, torch.get_num_threads()

    ended = []
    with ThreadPoolExecutor(6) as pool:
        found = list(results(call, [(i,) for i in range(6)], executor=pool, done=ended.append))
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

    with ThreadPoolExecutor(1) as pool:
        found = results(call, [(i,) for i in range(3)] + [(9,)] * 100, executor=pool)
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


def test_where_to_compute(monkeypatch):
    assert executor() is None
    with executor(3) as threads:
        assert threads.submit(abs, -2).result() == 2
        assert threads._max_workers == 3
    with pytest.raises(SslsimError, match="workers is -1; give a number of threads, or 0 for as many as torch uses"):
        executor(-1)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(SslsimError, match=r"scheduler 'tcp://a:1' needs dask: pip install 'sslsim\[dask\]'"):
        executor(scheduler="tcp://a:1")


def test_a_scheduler_that_does_not_answer_or_has_no_address(monkeypatch):
    monkeypatch.setattr(parallel, "CONNECT", 0.5)
    for address in ("tcp://127.0.0.1:9", "nonsense://x"):
        with pytest.raises(SslsimError, match=f"no dask scheduler at '{address}': "):
            executor(scheduler=address)


@pytest.mark.parametrize(
    "error",
    [AudioError(Path("a.wav"), "no such file"), Unwritable(Path("out/m-1"), OSError(28, "No space left on device"))],
)
def test_errors_come_back_whole_from_another_process(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
