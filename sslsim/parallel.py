"""Independent calls, spread over threads of this process or over any executor of `concurrent.futures`.

Every call computes with one thread of torch, wherever it runs, and results come back in the order of the calls: on
machines of one kind the numbers do not depend on how many workers there are or on which was first.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any, TypeVar

from sslsim.errors import SslsimError

Result = TypeVar("Result")
CONNECT = 20  # seconds to wait for a scheduler


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

    Parameters
    ----------
    function : callable
        For an executor of processes or machines it must be importable, and arguments and results picklable.
    calls : sequence of tuple
        Arguments of each call.
    executor : Executor, optional
        Where to run. By default threads of this process.
    workers : int, optional
        How many threads of this process; as many as torch uses by default.
    ahead : int, optional
        Compute at most so many results that were not yet taken; by default all that can be.
    done : callable
        Told the number of each call that has ended, in the order in which they end.
    stop : Event, optional
        Set when no more results are wanted, on a failure or Ctrl-C: calls that have begun may look at it and end.

    Raises
    ------
    Exception
        What the first call in order that failed raised, after calls that had not begun were cancelled.
    """
    import torch  # takes seconds: a store that is only reopened must not wait for it

    threads = torch.get_num_threads()
    with _workers(executor, workers or threads) as pool:
        waiting: deque[Future[Result]] = deque()
        numbered = enumerate(calls)
        try:
            while True:
                for i, call in islice(numbered, len(calls) if ahead is None else ahead - len(waiting)):
                    waiting.append(pool.submit(_alone, function, call))
                    waiting[-1].add_done_callback(partial(_tell, done, i))
                if not waiting:
                    break
                yield waiting.popleft().result()
        finally:
            if stop:
                stop.set()
            wait([future for future in waiting if not future.cancel()])  # what has begun still uses the caller's files
            torch.set_num_threads(threads)  # what a thread of ours set would hold for threads begun later


def executor(workers: int = 0, scheduler: str = "") -> Executor | None:
    """Return where to compute, for the ``executor`` of extraction and comparisons.

    Parameters
    ----------
    workers : int
        Threads of this process; 0 leaves the choice to torch.
    scheduler : str
        Address of a dask scheduler, such as ``tcp://node7:8786``, whose workers see the same folders; it takes
        ``pip install sslsim[dask]``.

    Returns
    -------
    Executor or None
        None, the default everywhere, for threads of this process, as many as torch uses.
    """
    if scheduler:
        try:
            from distributed import Client
        except ImportError as error:
            raise SslsimError(f"scheduler {scheduler!r} needs dask: pip install 'sslsim[dask]'") from error
        try:
            return Client(scheduler, timeout=CONNECT, set_as_default=False).get_executor()
        except (OSError, ValueError) as error:
            raise SslsimError(f"no dask scheduler at {scheduler!r}: {error}") from error
    if workers < 0:
        raise SslsimError(f"workers is {workers}; give a number of threads, or 0 for as many as torch uses")
    return ThreadPoolExecutor(workers) if workers else None


@contextmanager
def _workers(executor: Executor | None, threads: int) -> Iterator[Executor]:
    if executor is not None:
        yield executor
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="sslsim") as own:
        yield own


def _tell(done: Callable[[int], object], i: int, future: Future[Any]) -> None:
    if not future.cancelled():
        done(i)


def _alone(function: Callable[..., Result], call: tuple[Any, ...]) -> Result:
    import torch

    torch.set_num_threads(1)
    return function(*call)
