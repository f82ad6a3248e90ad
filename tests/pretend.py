"""A CUDA device without one: tensors that say they are on ``cuda:0``, compute on the CPU, and refuse what CUDA refuses.

Code that runs under `pretend_cuda` puts every tensor where it says: an operation on tensors of two devices, or numpy on
a tensor of the GPU, fails as it would there. Numbers are those of the CPU; speed says nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

GPU = torch.device("cuda", 0)
# may take tensors of two devices: copies, and indexing by a mask or places that lie on the CPU
ACROSS = {"copy_", "to", "__getitem__"}


class OnGpu(torch.Tensor):
    """A tensor that says it lies on a GPU."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})

    def __reduce_ex__(self, _: Any) -> tuple[Any, ...]:
        return _on_gpu, (_bare(self),)


class _Mode(TorchFunctionMode):
    def __torch_function__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _bare(x: Any) -> Any:
    with torch._C.DisableTorchFunctionSubclass():
        return x.as_subclass(torch.Tensor) if isinstance(x, OnGpu) else x


def _on_gpu(x: torch.Tensor) -> OnGpu:
    with torch._C.DisableTorchFunctionSubclass():
        return x.as_subclass(OnGpu)


def _device(x: Any) -> str:
    if isinstance(x, torch.Tensor):
        return "cuda" if isinstance(x, OnGpu) else "cpu"
    return torch.device(x).type


def _run(func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
    target = "cuda" if any(isinstance(t, OnGpu) for t in tensors) else "cpu"
    name = getattr(func, "__name__", "")
    if getattr(func, "__self__", None) is torch.Tensor.device and name == "__get__":
        return GPU if target == "cuda" else torch.device("cpu")
    if name == "numpy" and target == "cuda":
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu()")
    if target == "cuda" and name not in ACROSS and any(not isinstance(t, OnGpu) and t.dim() for t in tensors):
        raise RuntimeError(f"Expected all tensors to be on the same device, but {name} got cuda:0 and cpu")
    if name == "to":
        places = [x for x in (*args[1:], kwargs.get("device")) if isinstance(x, str | torch.device | torch.Tensor)]
        target = _device(places[0]) if places else target
        args = tuple("cpu" if isinstance(x, str | torch.device) else x for x in args)
    elif name in ("copy_", "__setitem__"):
        target = _device(args[0])
    elif kwargs.get("device") is not None:
        target = _device(kwargs["device"])
    target = "cpu" if name == "cpu" else target
    kwargs = kwargs | ({"device": "cpu"} if kwargs.get("device") is not None else {})
    given: dict[int, Any] = {}

    def plain(x: Any) -> Any:
        bare = _bare(x)
        given[id(bare)] = (x, bare)
        return bare

    out = func(*tree_map(plain, args), **tree_map(plain, kwargs))

    def placed(x: Any) -> Any:
        if not isinstance(x, torch.Tensor):
            return x
        if id(x) in given and _device(given[id(x)][0]) == target:  # changed in place
            return given[id(x)][0]
        return _on_gpu(x) if target == "cuda" else x

    return tree_map(placed, out)


class Here(Executor):
    """Runs each call at once, in the thread that submits it: a mode is of one thread."""

    def submit(self, fn, /, *args, **kwargs):
        future: Future = Future()
        future.set_result(fn(*args, **kwargs))
        return future


@contextmanager
def pretend_cuda() -> Iterator[None]:
    """Let ``device="cuda"`` work in this thread."""
    with _Mode():
        yield
