"""What a report must name so that its numbers can be made again: commit, versions."""

from __future__ import annotations

import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("sslsim", "torch", "transformers", "numpy", "scipy", "pandas", "matplotlib", "papermill", "nbconvert")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that the numbers and the pages come from."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def commit(folder: str | Path) -> dict[str, Any]:
    """Return the git commit of a checkout.

    Parameters
    ----------
    folder : path
        Top folder of the checkout. A folder inside somebody else's repository has no commit of its own.

    Returns
    -------
    dict
        ``commit``: full hash or None; ``dirty``: whether a tracked file differs from it.
    """
    top = _git(folder, "rev-parse", "--show-toplevel")
    if not top or Path(top).resolve() != Path(folder).resolve():
        return {"commit": None, "dirty": False}
    changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": _git(folder, "rev-parse", "--verify", "HEAD") or None, "dirty": bool(changes)}


def _git(folder: str | Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
