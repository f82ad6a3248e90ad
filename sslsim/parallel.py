"""Independent calls, spread over threads of this process or over any executor of `concurrent.futures`.

Every call computes with one thread of torch and of numpy, and results come back in the order of the calls: on machines
of one kind the numbers do not depend on how many workers there are or on which was first.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from typing import Any, Generic, TypeVar

from threadpoolctl import OpenBLASController, threadpool_limits

from sslsim.errors import SslsimError

Result = TypeVar("Result")
GPU_WORKERS = 2  # one reads while the other computes
CONNECT = 20  # seconds to wait for a scheduler
GRACE = 0.5  # seconds that calls which have begun get to end in, once nobody wants their results
_LOCK = threading.Lock()
_AT_ONCE: list[tuple[int, threadpool_limits]] = []  # an item for each that computes: what the first of them found


class once(Generic[Result]):  # noqa: N801  a decorator
    """A property that an object computes once and keeps.

    Like `functools.cached_property`, which until Python 3.12 lets one thread at a time compute it, of whatever object.
    """

    def __init__(self, function: Callable[[Any], Result]) -> None:
        self.function, self.__doc__ = function, function.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Result:
        if instance is None:
            return self  # type: ignore[return-value]
        value = vars(instance)[self.name] = self._made(instance)
        return value

    def _made(self, instance: Any) -> Result:
        return self.function(instance)


def results(
    function: Callable[..., Result],
    calls: Sequence[tuple[Any, ...]],
    *,
    executor: Executor | None = None,
    workers: int | None = None,
    ahead: int | None = None,
    done: Callable[[int], object] = lambda _: None,
    stop: threading.Event | None = None,
) -> Iterator[Result]:
    """Yield ``function(*call)`` for each of `calls`, in their order; the next ones are computed meanwhile.

    What the first call in order that failed raised is raised, after calls that had not begun were cancelled. On Ctrl-C,
    and when no more results are taken, calls that have begun are broken off too: in our threads at their next line of
    Python. What computes in native code for longer than `GRACE` is left behind, and nobody waits for it.

    They run in `executor`, see `chosen_executor`, at most `workers` at a time: by default as many as it takes, or in
    threads as many as torch uses. At most `ahead` results that were not yet taken are computed. `done` is told the
    number of each call that has ended, as they end; `stop` is set when no more results are wanted, on a failure or
    Ctrl-C: calls that have begun may look at it and end.
    """
    executor = chosen_executor(executor)
    with _threads() as threads:
        own = None if executor else ThreadPoolExecutor(workers or threads, thread_name_prefix="sslsim")
        pool: Executor = executor or own  # type: ignore[assignment]
        most = workers if executor and workers else len(calls)
        waiting: deque[Future[Result]] = deque()
        numbered, begun, wanted = enumerate(calls), _Begun(), True
        try:
            while True:
                running = {future for future in waiting if not future.done()} if most < len(calls) else set()
                room = min(most - len(running), len(calls) if ahead is None else ahead - len(waiting))
                for i, call in islice(numbered, max(room, 0)):
                    waiting.append(pool.submit(begun.run if own else _alone, function, call))
                    waiting[-1].add_done_callback(lambda future, i=i: future.cancelled() or done(i))  # type: ignore[misc]
                    running.add(waiting[-1])
                if not waiting:
                    break
                if most < len(calls) and not waiting[0].done():  # whichever ends first makes room for the next
                    wait(running, return_when=FIRST_COMPLETED)
                    continue
                yield waiting.popleft().result()
        except (KeyboardInterrupt, GeneratorExit):
            wanted = False
            raise
        finally:
            if stop:
                stop.set()
            _wind_up(waiting, begun, own, wanted=wanted)


@contextmanager
def _threads() -> Iterator[int]:
    """Yield how many threads torch uses; numpy gets one until all that compute at once are through.

    Torch has in the end what it had: what a thread of ours set would hold for threads begun later.
    """
    import torch  # takes seconds: a store that is only reopened must not wait for it

    with _LOCK:
        _AT_ONCE.append(_AT_ONCE[0] if _AT_ONCE else (torch.get_num_threads(), threadpool_limits(1, "blas")))
        threads, limits = _AT_ONCE[0]
    try:
        yield threads
    finally:
        with _LOCK:
            torch.set_num_threads(threads)
            _AT_ONCE.pop()
            if not _AT_ONCE:
                if clear := getattr(OpenBLASController, "clear_controlling_thread", None):
                    clear(force=True)  # from threadpoolctl 3.7 on, the thread that set limits could alone lift them
                limits.restore_original_limits()


def _wind_up(waiting: Iterable[Future[Any]], begun: _Begun, own: ThreadPoolExecutor | None, *, wanted: bool) -> None:
    """Wait for calls that have begun or, where they are not `wanted`, break them off; cancel the others."""
    rest = [future for future in waiting if not future.cancel()]  # they still use the caller's files
    if not wanted:
        begun.interrupt()
    wait(rest, timeout=None if wanted else GRACE)
    if own:
        own.shutdown(wait=wanted)


class _Begun:
    """Calls that run in threads of ours, and can be broken off."""

    def __init__(self) -> None:
        self.lock, self.threads = threading.Lock(), set[int]()

    def run(self, function: Callable[..., Result], call: tuple[Any, ...]) -> Result:
        with self.lock:
            self.threads.add(threading.get_ident())
        try:
            return _alone(function, call)
        finally:
            with self.lock:  # an interrupt that was sent is met here at the latest
                self.threads.discard(threading.get_ident())

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in each thread that runs a call."""
        with self.lock:
            for thread in self.threads:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(KeyboardInterrupt))


@lru_cache
def executor(scheduler: str) -> Executor:
    """Return the executor of the dask cluster at an address such as ``tcp://node7:8786``."""
    try:
        from distributed import Client

        return Client(scheduler, timeout=CONNECT, set_as_default=False).get_executor()
    except ImportError as error:
        raise SslsimError(f"scheduler {scheduler!r} needs dask: pip install 'sslsim[dask]'") from error
    except (OSError, ValueError) as error:
        raise SslsimError(f"no dask scheduler at {scheduler!r}: {error}") from error


def chosen_executor(given: Executor | None) -> Executor | None:
    """Return the executor given, else that of the scheduler that the environment names; None for threads."""
    if given is not None and not hasattr(given, "submit"):
        raise SslsimError(f"executor is {given!r}; give one of concurrent.futures, or None for threads")
    scheduler = os.environ.get("SSLSIM_SCHEDULER", "")
    return executor(scheduler) if given is None and scheduler else given


def chosen_device(device: str, executor: Executor | None = None) -> str:
    """Return the device to compute on: for ``auto`` cuda if there is one, else cpu; an error if another is not there.

    Where workers of an `executor`, or of the scheduler that the environment names, compute, it may be there alone.
    """
    import torch

    if str(device) == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        if executor is None and not os.environ.get("SSLSIM_SCHEDULER"):
            torch.empty(0, device=device).cpu()
        return str(torch.device(device))
    except Exception as error:  # each kind of device is missing in its own way
        told = str(error).strip().split("\n")[0]
        raise SslsimError(f"device {device!r} cannot be used: {told}; give cpu, cuda or auto") from error


def workers_on(device: str) -> int | None:
    """Return how many calls may compute on a device at a time, None for as many as there are workers."""
    return None if device.startswith("cpu") else GPU_WORKERS


def _alone(function: Callable[..., Result], call: tuple[Any, ...]) -> Result:
    import torch

    torch.set_num_threads(1)
    _numpy_alone(os.getpid())
    return function(*call)


@lru_cache
def _numpy_alone(_process: int) -> None:
    """Give numpy one thread in this process, once: to find its libraries takes milliseconds.

    Where it is the caller's, `_threads` has done so already, and gives them back.
    """
    threadpool_limits(1, "blas")
