"""Run one notebook with papermill: this interpreter's kernel, live progress, an outcome instead of an exception."""

import asyncio
import logging
import os
import re
import signal
import sys
import time
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat
import papermill
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from jupyter_core.utils import ensure_event_loop
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import Engine, papermill_engines
from papermill.exceptions import PapermillExecutionError
from traitlets.config import Config

from sslsim.errors import Unanswered
from sslsim.reports import record
from sslsim.resources import NO_ROOM, NoRoom, replacing

_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")
# The system ends a kernel with its run, in native code too; elsewhere ipykernel looks for its parent once a second.
_BOUND = """import ctypes, os, runpy, sys
if sys.platform == "linux" and ctypes.CDLL(None).prctl(1, 9) == 0 and os.getppid() != int(os.environ["JPY_PARENT_PID"]):
    os._exit(1)  # what is called above is PR_SET_PDEATHSIG, SIGKILL
runpy.run_module("ipykernel_launcher", run_name="__main__", alter_sys=True)"""


@dataclass
class Kernels:
    """The kernels of notebooks that run in other threads, so that all can be ended."""

    running: set["_LiveClient"] = field(default_factory=set)
    ended: bool = False

    def end(self) -> None:
        """Kill them all, and those that are only starting with their first cell."""
        self.ended = True
        for client in list(self.running):
            with suppress(ProcessLookupError):  # it has ended
                if pid := getattr(client.km.provisioner, "pid", None):
                    os.kill(pid, signal.SIGKILL)


def execute(
    path: Path, output: Path, values: dict[str, Any], *, threads: int, label: str, kernels: Kernels
) -> tuple[NotebookNode, dict[str, Any]]:
    """Run the notebook at `path` with the parameters `values`, leave it executed at `output`, and return it.

    With it comes how it ended: ``status`` is ``ok``, ``failed``, or ``unanswered`` where the checkpoints leave its
    question open, ``error`` says why, ``started`` is in UTC, ``seconds`` is wall time with the start of the kernel.
    The kernel is this very interpreter, whether or not a kernelspec is installed for it, with the notebook's folder
    as working directory and its path in JPY_SESSION_NAME, as in JupyterLab. Numerical libraries get so many `threads`,
    unless the environment says; `label` starts each line of progress; `kernels` has the kernel while it runs. What
    `Report` writes goes to the folder of `output`. A disk that is full, here or in the notebook, is a `NoRoom`.
    """
    logging.getLogger("papermill").setLevel(logging.ERROR)  # it warns about types it does not know
    papermill_engines.register("sslsim", _LiveEngine)
    kernel = {"engine_name": "sslsim", "kernel_name": "python3", "language": "python", "progress_bar": False}
    options = {"path": path, "staging": output.parent, "threads": threads, "label": label, "kernels": kernels}
    status, said, started, clock = "failed", "", record.now(), time.monotonic()
    with replacing(output) as part:
        files = [str(each).replace("{", "{{").replace("}", "}}") for each in (path, part)]  # papermill fills in {name}
        try:
            papermill.execute_notebook(*files, values, **kernel, **options)
            status = "ok"
        except PapermillExecutionError as error:
            said = next(iter(error.evalue.strip().splitlines()), "")
            if error.ename == NoRoom.__name__:
                raise NoRoom(said) from None
            if error.ename == Unanswered.__name__:
                status = "unanswered"
            else:
                said = f"{error.ename}: {said}"
        except DeadKernelError:
            said = "the kernel died: killed, out of memory, or crashed in native code"
        except Exception as error:
            if getattr(error, "errno", None) in NO_ROOM:
                raise
            said = f"{type(error).__name__}: {error}"  # a broken start must not end the other notebooks
        if kernels.ended:
            raise InterruptedError(label)  # nobody wants its page
    outcome = {"status": status, "error": said, "started": started, "seconds": round(time.monotonic() - clock, 2)}
    return nbformat.read(output, as_version=4), outcome


class _LiveClient(PapermillNotebookClient):
    """Says on stdout which cell runs, and passes progress bars on."""

    label: str
    kernels: Kernels
    heading = ""
    begun = False

    async def _async_poll_kernel_alive(self) -> None:  # five times a second, not once: nobody waits for an ended one
        while await self.km.is_alive():
            await asyncio.sleep(0.2)
        self.task_poll_for_reply.cancel()

    def say(self, text: str) -> None:
        print(f"{self.label}  {text}\n", end="", flush=True)  # one write: other threads print as well

    def cell_starts(self, cell: NotebookNode, cell_index: int) -> None:
        self.begun = True
        self.kernels.running.add(self)
        if self.kernels.ended:
            self.kernels.end()
        if cell.cell_type == "markdown":
            self.heading = ([self.heading] + re.findall(r"^#+ +(.+)$", cell.source, re.MULTILINE))[-1]
            return
        kinds = [c.cell_type == "code" for c in self.nb.cells]
        self.say(f"{sum(kinds[: cell_index + 1]):2d}/{sum(kinds)}  {self.heading}")

    def process_message(self, *args: Any, **kwargs: Any) -> Any:
        output = super().process_message(*args, **kwargs)
        text = output.text if output and output.output_type == "stream" else ""
        if bars := [part for part in re.split(r"[\r\n]", text) if re.search(r"[1-9]\d*%\|", part)]:
            self.say(f"       {bars[-1].strip()}")
        return output


class _LiveEngine(Engine):
    @classmethod
    def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **options: Any) -> None:
        path = options["path"]
        threads = dict.fromkeys(_THREAD_VARIABLES, str(options["threads"]))
        environment = threads | {"OMP_WAIT_POLICY": "PASSIVE"} | os.environ  # kernels side by side: no busy waiting
        environment |= {"JPY_SESSION_NAME": str(path), "SSLSIM_STAGING": str(options["staging"])}
        # all that a notebook makes is written when it ends; a busy kernel would take seconds to obey
        ends = {"coalesce_streams": True, "timeout": None, "startup_timeout": 180, "shutdown_kernel": "immediate"}
        with closing(ensure_event_loop()):  # that of this thread
            for again in (False, True):
                client = _LiveClient(nb_man, km=_manager(), **ends)
                client.label, client.kernels = options["label"], options["kernels"]
                client.on_cell_start = client.cell_starts
                try:
                    client.execute(cwd=str(path.parent), env=environment, cleanup_kc=True)
                    break
                except RuntimeError as error:
                    if again or client.begun:
                        raise
                    client.say(f"the kernel did not start, once more: {error}")  # the processor was too busy
                finally:
                    client.kernels.running.discard(client)


def _manager() -> AsyncKernelManager:
    manager: Any = AsyncKernelManager(
        kernel_name="python3",
        # no kernel folders: a user's own "python3" may be another interpreter, ipykernel's is this one
        kernel_spec_manager=KernelSpecManager(kernel_dirs=[]),
        # ipykernel 7.3 and later warns at each start when its TCP ports are not encrypted
        config=Config({"AsyncKernelManager": {"transport_encryption": "auto"}}),
    )
    manager.kernel_spec.argv[:] = [sys.executable, "-c", _BOUND, "-f", "{connection_file}"]
    return manager
