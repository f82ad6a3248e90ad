"""run.json and sweep.json, and what they name to make numbers again: code, notebooks, versions, checkpoints, speech."""

import json
import platform
import re
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslsim import __version__
from sslsim.errors import SslsimError
from sslsim.resources import digest, write_text

if TYPE_CHECKING:
    from sslsim.activations import Study
    from sslsim.activations.store import ActivationStore

FORMAT = 4
SWEEP = "sweep.json"
PACKAGES = ("torch", "transformers", "numpy", "scipy", "pandas", "matplotlib", "papermill", "nbconvert")
_PACKAGE = Path(__file__).parents[1]
_TEXT, _NUMBER, _FILE = (str, type(None)), (float, int, type(None)), re.compile(r"(tables|figures)/[^/\\\0]+")
_CLAIM: dict[str, Any] = dict.fromkeys(("claim", "between", "measure", "unit", "verdict", "effect_text", "p_text"), str)
_CLAIM |= dict.fromkeys(("effect", "ci_low", "ci_high", "p"), _NUMBER)
_SHORT = {"title": str, "status": str, "error": str, "seconds": (float, int), "claims": [_CLAIM]}
_ENTRY = _SHORT | {"summary": str, "started": str, "run": str, "page": bool, "notebook": {"hash": str}}
_ENTRY |= {"parameters": [{"name": str, "value": object, "default": object}], "keys": {"*": [str]}, "files": [_FILE]}
_ENTRY |= {"answer": str, "note": str, "bounds": {"*": [(float, int)]}} | (_CODE := {"commit": _TEXT, "dirty": bool})
_RUN = _CODE | {"started": str, "status": str, "seconds": (float, int), "code": str, "checkpoints": [{"name": str}]}
_RUN |= {name: {"*": object} for name in ("versions", "study", "corpus")} | {"notebooks": {"*": _ENTRY}}
_ROW = {"status": str, "seconds": (float, int), "values": {"*": object}, "notebooks": {"*": _SHORT}}


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def read(file: Path) -> dict[str, Any]:
    """Return the content of run.json or sweep.json, or nothing when it is missing, broken, odd or of another format."""
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    shape = {"runs": {"*": _ROW}} if file.name == SWEEP else _RUN
    return content if _like(content, shape | {"format": int}) and content["format"] == FORMAT else {}


def _like(value: Any, shape: Any) -> bool:
    """Return whether a value has the types of `shape`; ``*`` is any key."""
    match shape:
        case [each]:
            return isinstance(value, list) and all(_like(item, each) for item in value)
        case {"*": each}:
            return isinstance(value, dict) and all(_like(item, each) for item in value.values())
        case dict():
            return isinstance(value, dict) and all(k in value and _like(value[k], each) for k, each in shape.items())
        case re.Pattern():
            return isinstance(value, str) and bool(shape.fullmatch(value))
    return isinstance(value, shape)


def write(file: Path, content: Mapping[str, Any]) -> None:
    """Write run.json or sweep.json, whole or not at all."""
    write_text(file, json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n")


def of_package() -> dict[str, Any]:
    """Return the commit of this package, ``code``, a hash of its files, and ``versions`` of what it computes with."""
    files = [path for path in sorted(_PACKAGE.rglob("*.*")) if path.is_file()]
    own = [path for path in files if "/_" not in f"/{path.relative_to(_PACKAGE).parent.as_posix()}"]
    code = digest("\n".join(f"{path.name} {digest(path.read_bytes())}" for path in own).encode())
    versions = {"python": platform.python_version(), "sslsim": __version__}
    versions |= {package: metadata.version(package) for package in PACKAGES}
    return {**commit(_PACKAGE), "code": code, "versions": versions}


def of_notebook(path: Path) -> dict[str, Any]:
    """Return a notebook's path, the hash of the file, and the commit of the checkout that it belongs to."""
    return {"path": str(path), "hash": digest(path.read_bytes()), **commit(path)}


def commit(path: Path) -> dict[str, Any]:
    """Return ``commit``, the hash of the git commit that a file or folder comes from, and ``dirty``, if it differs.

    None is the commit of what git does not track, as of an environment inside somebody's checkout.
    """
    if not _git(path.parent, "ls-files", "--error-unmatch", str(path)):
        return {"commit": None, "dirty": False}
    changes = _git(path.parent, "status", "--porcelain", "--untracked-files=no", "--", str(path))
    return {"commit": _git(path.parent, "rev-parse", "--verify", "HEAD") or None, "dirty": bool(changes)}


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def made_from(opened: "Sequence[tuple[Study, Sequence[ActivationStore]]]") -> dict[str, Any]:
    """Return what run.json says of the stores that notebooks open, each named once, and of their speech.

    ``checkpoints`` are flat dicts with the same keys; ``corpus`` is a flat dict, with a hash of the time marks beside
    the speech where there are any.
    """
    if not opened:
        return {"checkpoints": [], "corpus": {}}
    from sslsim.speech.alignments import alignment_facts, alignments_files, alignments_of
    from sslsim.speech.facts import speech_facts
    from sslsim.speech.recording import SAMPLE_RATE

    rows = {str(store.root): _checkpoint(store, study) for study, stores in opened for store in stores}
    one = next(store for _, stores in opened for store in stores)
    minutes = round(float(one.index["n_samples"].sum()) / SAMPLE_RATE / 60, 2)
    corpus: dict[str, Any] = {"utterances": len(one.index), "minutes": minutes, "left out": len(one.skipped)}
    corpus["fingerprint"] = one.corpus_fingerprint
    corpus |= speech_facts(one.index)
    corpora = {str(study.corpus): study.whole_corpus() for study, _ in opened}.values()
    if marks := [file.read_bytes() for each in corpora for file in alignments_files(each)]:
        corpus["marks"] = digest(b"".join(marks))
        with suppress(SslsimError):  # a notebook that needs them says so
            corpus |= alignment_facts(alignments_of(next(iter(corpora))), one.index)
    return {"checkpoints": list(rows.values()), "corpus": corpus}


def _checkpoint(store: "ActivationStore", study: "Study") -> dict[str, Any]:
    names = ("name", "family", "size", "finetuned_from", "seed_of", "weights")
    folder = Path(study.lineup).parent if isinstance(study.lineup, (str, Path)) else Path()
    source = store.checkpoint.source
    near = Path(source).is_relative_to(folder)
    said = {name: getattr(store.checkpoint, name) for name in names}
    said |= {name: getattr(store, f"n_{name}") for name in ("layers", "neurons", "heads")}
    said |= {"adapter": store.input.get("adapter", ""), "site": store.site, "features": store.input["features"]}
    source = Path(source).relative_to(folder).as_posix() if near else source
    return said | {"fingerprint": store.fingerprint, "source": source, "revision": store.checkpoint.revision}
