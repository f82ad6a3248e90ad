"""Calls spread over workers: in order, all accounted for, and failures not hidden."""

import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from threadpoolctl import threadpool_info

from sslsim import parallel
from sslsim.activations.draft import Unwritable
from sslsim.errors import SslsimError
from sslsim.parallel import chosen_device, chosen_executor, executor, once, results, workers_on
from sslsim.speech.recording import AudioError


def test_results_come_in_the_order_of_the_calls():
    gates = [threading.Event() for _ in range(6)]
    gates[-1].set()

    def call(i):
        gates[i].wait(5)
        gates[i - 1].set()  # each lets the one before it go: they end in reverse
        return (
            i,
            torch.get_num_threads(),
            *(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"),
        )

    ended = []
    with ThreadPoolExecutor(6) as pool:
        found = list(results(call, [(i,) for i in range(6)], executor=pool, done=ended.append))
    assert {used for _, *threads in found for used in threads} == {1}  # of torch, and of numpy's libraries
    assert [row[0] for row in found] == list(range(6))
    assert sorted(ended) == list(range(6))


def threads_of_libraries():
    return torch.get_num_threads(), *(one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas")


def overlapping():
    """Threads before, in the calls of two that compute at once, and afterwards."""

    def call(seconds):
        time.sleep(seconds)
        return threads_of_libraries()

    before = threads_of_libraries()
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other, ThreadPoolExecutor(2) as both:
        calls = (([(0.4,)], one), ([(0.2,), (0.4,), (0.1,)], other))  # the second begins and ends later
        found = both.map(lambda of: list(results(call, of[0], executor=of[1])), calls)
        return before, {n for part in found for counts in part for n in counts}, threads_of_libraries()


def test_calls_of_two_that_compute_at_once_have_one_thread_and_all_is_given_back(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # of a process that begins now
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        before, meanwhile, after = pool.submit(overlapping).result()
    assert set(before) == {2}
    assert meanwhile == {1}
    assert after == before


def test_a_worker_process_computes_with_one_thread_too(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")  # of a process that begins now
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert set(*results(threads_of_libraries, [()], executor=pool)) == {1}


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


@pytest.mark.parametrize("workers", [1, 2])
def test_an_executor_gets_no_more_calls_at_a_time_than_workers(workers):
    """The limit of a GPU holds in a pool of many threads; and whichever call ends first makes room."""
    running, most, lock, slow = set(), [], threading.Lock(), threading.Event()

    def call(i):
        with lock:
            running.add(i)
            most.append(len(running))
        if i == 0 and workers > 1:
            assert slow.wait(5)  # the others need not wait for the first
        if i == 9:
            slow.set()
        time.sleep(0.002)
        with lock:
            running.remove(i)
        return i

    with ThreadPoolExecutor(8) as pool:
        assert list(results(call, [(i,) for i in range(12)], executor=pool, workers=workers)) == list(range(12))
    assert max(most) <= workers


def test_where_to_compute(monkeypatch):
    monkeypatch.delenv("SSLSIM_SCHEDULER", raising=False)
    assert chosen_executor(None) is None
    monkeypatch.setenv("SSLSIM_SCHEDULER", "tcp://a:1")
    monkeypatch.setattr(parallel, "executor", lambda address: f"the cluster at {address}")
    assert chosen_executor(None) == "the cluster at tcp://a:1"
    with ThreadPoolExecutor(1) as pool:
        assert chosen_executor(pool) is pool
    assert chosen_device("cpu") == "cpu"
    assert chosen_device("cuda:1") == "cuda:1"
    assert (workers_on("cpu"), workers_on("cuda:1")) == (None, 2)
    for there in (False, True):
        monkeypatch.setattr(torch.cuda, "is_available", lambda there=there: there)
        assert chosen_device("auto") == ("cuda" if there else "cpu")


def test_a_scheduler_without_dask_or_that_does_not_answer_or_has_no_address(monkeypatch):
    monkeypatch.setattr(parallel, "CONNECT", 0.5)
    for address in ("tcp://127.0.0.1:9", "nonsense://x"):
        with pytest.raises(SslsimError, match=f"no dask scheduler at '{address}': "):
            executor(address)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(SslsimError, match=r"scheduler 'tcp://a:1' needs dask: pip install 'sslsim\[dask\]'"):
        executor("tcp://a:1")


@pytest.mark.parametrize(
    "error",
    [AudioError(Path("a.wav"), "no such file"), Unwritable(Path("out/m-1"), OSError(28, "No space left on device"))],
)
def test_errors_come_back_whole_from_another_process(error):
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)


@pytest.mark.parametrize("stopped_by", ["Ctrl-C", "no more taken"])
def test_calls_that_have_begun_are_broken_off(stopped_by):
    """In the cell of a notebook, whose process goes on."""
    steps, ended, stop = [], [], threading.Event()

    def call(i):
        try:
            for _ in range(3000):
                time.sleep(0.01)
                steps.append(i)
        finally:
            ended.append(i)

    found = results(call, [(i,) for i in range(50)], workers=2, stop=stop)
    if stopped_by == "Ctrl-C":
        signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background may ignore it
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        clock = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            next(found)
        assert time.monotonic() - clock < 2
    else:
        found = results(lambda i: i if i == 0 else call(i), [(i,) for i in range(50)], workers=2)
        assert next(found) == 0
        time.sleep(0.2)
        found.close()
    taken = len(steps)
    time.sleep(0.1)
    assert len(steps) == taken
    assert sorted(ended) == ([0, 1] if stopped_by == "Ctrl-C" else [1, 2])
    assert stop.is_set() == (stopped_by == "Ctrl-C")
    assert list(results(abs, [(-1,)])) == [1]


LONG = """
import signal, sys, time
import torch
from sslsim import cli
from sslsim.parallel import results
def measures(_):
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job that a shell put aside ignores Ctrl-C
    print("begun", flush=True)
    list(results(time.sleep, [(60,)] * 4, workers=2))
cli._measures = measures
sys.argv[1:] = ["measures"]
cli.main()
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_command_ends_within_two_seconds_whatever_its_calls_do(how):
    """Calls in native code hear no signal."""
    process = subprocess.Popen([sys.executable, "-c", LONG], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begun\n"
    time.sleep(0.5)
    clock = time.monotonic()
    process.send_signal(how)
    _, errors = process.communicate(timeout=30)
    assert time.monotonic() - clock < 2
    assert (process.returncode, errors) == (130, "sslsim: interrupted\n")


@pytest.mark.parametrize("device", ["cuda", "cuda:99", "meta", "cdua", "", None, 7, ["cpu"]])
def test_a_device_that_is_not_here_is_refused_unless_others_compute(device, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    if device in ("cuda", 7) and torch.cuda.device_count():
        pytest.skip("it is here")
    with pytest.raises(SslsimError, match=r"device .* cannot be used: [^\n]+; give cpu, cuda or auto$"):
        chosen_device(device)
    assert [chosen_device(known) for known in ("auto", "cpu", torch.device("cpu"))] == ["cpu"] * 3
    with ThreadPoolExecutor(1) as workers:
        assert chosen_device("cuda:99", workers) == "cuda:99"
    monkeypatch.setenv("SSLSIM_SCHEDULER", "tcp://a:1")
    assert chosen_device("cuda:99") == "cuda:99"


def test_two_threads_compute_a_property_at_once_and_each_object_keeps_its_own():
    """`functools.cached_property` lets the second thread wait for the first, until Python 3.12."""
    both = threading.Barrier(2)

    class Thing:
        @once
        def value(self):
            """What it is."""
            both.wait(5)
            return object()

    things = [Thing(), Thing()]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda thing: thing.value, things))
    assert [thing.value for thing in things] == found
    assert found[0] is not found[1]
    assert Thing.value.__doc__ == "What it is."
