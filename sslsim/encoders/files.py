"""A checkpoint's files: found in a folder or fetched from the hub, and hashed; none is loaded."""

import hashlib
import json
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from sslsim.encoders.encoder import BANDS, RECIPE
from sslsim.encoders.lineup import HUB_ID, LOG_MEL, Checkpoint, problem
from sslsim.speech.recording import content_fingerprint

_SETTINGS = ("config.json", "preprocessor_config.json", "processor_config.json")
_WEIGHTS = ("model*.safetensors*", "pytorch_model*.bin*")
_ADAPTER = "adapter_config.json"


def locate(checkpoint: Checkpoint) -> Path:
    """Return the folder with a checkpoint's files, fetched from the hub if need be: pickles only for want of others."""
    trained = checkpoint.untrained_seed is None
    folder = Path(checkpoint.source)
    if folder.is_dir():
        if checkpoint.revision:
            raise problem(checkpoint, f"has a revision, but its source is a folder, {str(folder)!r}")
    elif HUB_ID.fullmatch(checkpoint.source):
        folder = _fetch(checkpoint, [*_SETTINGS, _ADAPTER, _WEIGHTS[0]] if trained else [*_SETTINGS])
        if trained and not _weight_names(checkpoint, folder):
            folder = _fetch(checkpoint, [_WEIGHTS[1]])
        names = _weight_names(checkpoint, folder) if trained else []
        if absent := [name for name in names if not (folder / name).exists()]:
            folder = _fetch(checkpoint, absent)
    else:
        raise problem(checkpoint, f"no folder {checkpoint.source!r}")
    if not (folder / "config.json").is_file():
        raise problem(checkpoint, f"no config.json in {str(folder)!r}; a folder that save_pretrained left has one")
    if trained and (folder / _ADAPTER).exists():  # transformers would add it iff peft is installed
        advice = "merge the adapter (merge_and_unload of peft) and save the model to a folder of its own"
        raise problem(checkpoint, f"has an adapter, {_ADAPTER} in {str(folder)!r}; {advice}")
    if trained and not _weight_names(checkpoint, folder):
        raise problem(checkpoint, f"no weights in {str(folder)!r} ({' or '.join(_WEIGHTS)})")
    return folder


def expected_shape(checkpoint: Checkpoint) -> tuple[int, int, int]:
    """Return the layers, neurons and heads that a checkpoint's settings promise; 0 if they do not say."""
    if checkpoint.source == LOG_MEL:
        return 1, BANDS, 0
    with suppress(OSError, ValueError, KeyError, TypeError):
        config = json.loads((locate(checkpoint) / "config.json").read_text(encoding="utf-8"))
        return int(config["num_hidden_layers"]) + 1, int(config["hidden_size"]), int(config["num_attention_heads"])
    return 0, 0, 0


def _fetch(checkpoint: Checkpoint, patterns: list[str]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(checkpoint.source, revision=checkpoint.revision, allow_patterns=patterns))
    except Exception as error:  # the hub's client raises a dozen kinds: offline, not found, gated, cache...
        revision = f" at revision {checkpoint.revision}" if checkpoint.revision else ""
        fault = f"no folder {checkpoint.source!r}, and it could not be had from the hub{revision}"
        raise problem(checkpoint, f"{fault} ({type(error).__name__}: {first_line(error)})") from error


def first_line(error: Exception) -> str:
    """Return the first line of what a library said, so that an error stays one line."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _weight_names(checkpoint: Checkpoint, folder: Path) -> list[str]:
    """Return all files that weights may be read from: safetensors, else pickled ones, and those that others name."""
    names = {file.name for file in folder.glob("*.safetensors*")}  # whatever they are called, see below
    if not names & {"model.safetensors", "model.safetensors.index.json"}:
        names |= {file.name for file in folder.glob(_WEIGHTS[1])}
    names |= _named(folder / "config.json", "transformers_weights")
    for index in sorted(name for name in names if name.endswith(".index.json")):
        names |= _named(folder / index, "weight_map")
    for name in sorted(names):
        if ".." in Path(name).parts or Path(name).is_absolute():
            raise problem(checkpoint, f"names weights {name!r}, which is out of {str(folder)!r}; put them in there")
    return sorted(names)


def _named(file: Path, key: str) -> set[str]:
    """Return the files that a JSON file names; what is wrong with it transformers will say."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        named = json.loads(file.read_text(encoding="utf-8"))[key]
        return set(map(str, named.values())) if isinstance(named, dict) else {str(named)}
    return set()


def checkpoint_fingerprint(checkpoint: Checkpoint) -> str:
    """Return a SHA-256 over names and content of a checkpoint's settings and weight files.

    Of an untrained twin: over its settings, its seed, and the versions of the libraries that draw its weights.
    """
    if checkpoint.source == LOG_MEL:
        return hashlib.sha256(f"{RECIPE}\0{version('transformers')}".encode()).hexdigest()
    folder, trained = locate(checkpoint), checkpoint.untrained_seed is None
    names = [*_SETTINGS, *(_weight_names(checkpoint, folder) if trained else ())]
    files = [name for name in names if (folder / name).is_file()]
    drawn = f"untrained\0{checkpoint.untrained_seed}\0{version('torch')}\0{version('transformers')}\n"
    parts = ["" if trained else drawn, *(f"{name}\0{content_fingerprint(folder / name)}\n" for name in files)]
    return hashlib.sha256("".join(parts).encode()).hexdigest()
