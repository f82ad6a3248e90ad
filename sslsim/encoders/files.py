"""A checkpoint's files: found in a folder or fetched from the hub, and hashed; none is loaded."""

import json
import math
import os
import re
import threading
import traceback
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from sslsim.encoders.encoder import BANDS, RECIPE, ignore_widgets
from sslsim.encoders.lineup import HUB_ID, LOG_MEL, Checkpoint, problem
from sslsim.resources import digest
from sslsim.speech.recording import HOP, SAMPLE_RATE, content_fingerprint

_PREPROCESSOR = ("preprocessor_config.json", "processor_config.json")
_SETTINGS = ("config.json", *_PREPROCESSOR)
_ADAPTER, TOKENIZER = "adapter_config.json", "tokenizer_config.json"
# in the order in which transformers looks for them
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_SIZES = [["num_hidden_layers", "encoder_layers"], ["hidden_size", "d_model"]]
_SIZES += [["intermediate_size", "encoder_ffn_dim"], ["num_attention_heads", "encoder_attention_heads"]]
_FLOATS = ("F64", "F32", "F16", "BF16")
_COMMITS = "SSLSIM_COMMITS"  # those looked up, which the kernels of a run inherit: one look-up, and one commit, a run
_LOGIN = "log in with `hf auth login`"
_ADVICE = {  # for the errors of the hub's client, the first that fits
    "GatedRepoError": f"it is gated; accept the terms on the model's page and {_LOGIN}",
    "RevisionNotFoundError": "it has no such revision; give a commit, branch or tag of the model's page",
    "RepositoryNotFoundError": f"there is no such model, or it is private; check the spelling of org/name, or {_LOGIN}",
    "OfflineModeIsEnabled": "it is not whole in the cache, and HF_HUB_OFFLINE is set; unset it and run with a network",
    "JSONDecodeError": "a web page came instead of data; if your network asks you to sign in, do so in a browser",
    "Connect(ion)?Error|Timeout|ProxyError": "the hub cannot be reached; check network and proxy, and run again",
    "HfHubHTTPError": f"the hub refuses, or is down ({{}}); {_LOGIN}, or wait a while and run again",
    "": "{}",
}


def locate(checkpoint: Checkpoint) -> Path:
    """Return the folder with a checkpoint's files, fetched from the hub if need be: of weights what will be read."""
    trained, folder = checkpoint.untrained_seed is None, Path(checkpoint.source)
    if of_hub(checkpoint):
        checkpoint = pinned(checkpoint)
        folder = _fetch(checkpoint, *_SETTINGS, _ADAPTER, TOKENIZER)
        asked = [*named(folder / "config.json", "transformers_weights"), *_WEIGHTS] if trained else []
        if any((_fetch(checkpoint, "config.json", name) / name).exists() for name in asked):
            _fetch(checkpoint, *_weight_names(checkpoint, folder))
    elif folder.is_dir():
        if checkpoint.revision:
            raise problem(checkpoint, f"has a revision, but its source is a folder, {str(folder)!r}")
    else:
        raise problem(checkpoint, f"no folder {str(folder)!r}{_foreign(folder)}")
    if trained and (folder / _ADAPTER).exists():  # transformers would add it iff peft is installed
        advice = "merge the adapter (merge_and_unload of peft) and save the model to a folder of its own"
        raise problem(checkpoint, f"has an adapter, {_ADAPTER} in {str(folder)!r}; {advice}")
    if not (folder / "config.json").is_file():
        advice = _foreign(*folder.iterdir()) or "; a folder that save_pretrained left has one"
        raise problem(checkpoint, f"no config.json in {str(folder)!r}{advice}")
    if not any((preprocessor_folder(folder) / name).is_file() for name in _PREPROCESSOR):
        fault = f"no {_PREPROCESSOR[0]} in {str(folder)!r}"
        raise problem(checkpoint, f"{fault}; copy it from the model that this one was finetuned from")
    if trained and not _weight_names(checkpoint, folder):
        advice = _foreign(*folder.iterdir())
        raise problem(checkpoint, f"no weights in {str(folder)!r}, such as {_WEIGHTS[0]}{advice}")
    for name, file in _files(checkpoint, folder).items():
        if fault := _impostor(file):
            raise problem(checkpoint, f"{name} in {str(folder)!r} is {fault}")
    return folder


def preprocessor_folder(folder: Path) -> Path:
    """Return where the settings of the preprocessor lie: of a Trainer's checkpoint-N without them, the folder above."""
    here, real = any((folder / name).is_file() for name in _PREPROCESSOR), folder.resolve()
    return folder if here or not re.fullmatch(r"checkpoint-\d+", real.name) else real.parent


def _foreign(*files: Path) -> str:
    if arrays := [file.name for file in files if file.suffix in (".npy", ".npz")]:
        return f"; {arrays[0]!r} is an array: a folder of arrays needs times in the lineup, such as [0.0125, 0.02]"
    names = [repr(file.name) for file in files if file.is_file() and file.suffix in (".pt", ".pth", ".ckpt")]
    advice = "; convert it to a folder of transformers first, whose version 4 has scripts for those of fairseq"
    return f"; {names[0]} may be a checkpoint of fairseq or another trainer{advice}" if names else ""


def _impostor(file: Path) -> str:
    """Return what a file is instead of what its name says, and the cure."""
    with file.open("rb") as content:
        start = content.read(99).lower()
    if start.startswith(b"version https://git-lfs"):
        return "a git-lfs pointer, not the file itself; run `git lfs pull` in its folder"
    if not start or re.match(rb"\s*<(!doctype|html)", start):
        return f"{'a web page' if start else 'empty'}, not the file itself; download it again"
    if file.suffix == ".safetensors":
        try:
            with safe_open(file, "np"):
                pass
        except SafetensorError as error:
            return f"cut off or damaged ({first_line(error)}); download it again"
    return ""


def expected_shape(checkpoint: Checkpoint, site: str = "hidden") -> tuple[int, int, int]:
    """Return the layers, neurons and heads that a checkpoint's settings promise; 0 if they do not say."""
    if checkpoint.source == LOG_MEL:
        return 1, BANDS, 0
    with suppress(OSError, ValueError, AttributeError, TypeError):
        config = json.loads((locate(checkpoint) / "config.json").read_text(encoding="utf-8"))
        sizes = [next((config[key] for key in each if key in config), 0) for each in _SIZES]
        layers, neurons, units, heads = map(int, sizes)
        return (layers, units, 0) if site == "ffn" else (layers + 1, neurons, heads)
    return 0, 0, 0


def expected_step(checkpoint: Checkpoint) -> float:
    """Return the seconds from one frame to the next that a checkpoint's settings promise; 0.02 if they do not say."""
    if checkpoint.times:
        return checkpoint.times[1]
    with suppress(OSError, ValueError, KeyError, TypeError, StopIteration):
        folder = _fetch(pinned(checkpoint), *_SETTINGS) if of_hub(checkpoint) else locate(checkpoint)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        part = config.get("encoder_config") or config.get("encoder") or config
        files = (preprocessor_folder(folder) / name for name in _PREPROCESSOR)
        said = json.loads(next(file for file in files if file.is_file()).read_text(encoding="utf-8"))
        said = said.get("feature_extractor", said)
        if "subsampling_factor" in part:
            return said["hop_length"] * part["subsampling_factor"] / said["sampling_rate"]
        return math.prod(part["conv_stride"]) * part.get("squeeze_factor", 1) / said["sampling_rate"]
    return HOP / SAMPLE_RATE


def of_hub(checkpoint: Checkpoint) -> bool:
    """Return whether a checkpoint comes from the hub; it is an error if a folder here has the name of its model."""
    found = HUB_ID.fullmatch(source := checkpoint.source) is not None and checkpoint.times is None
    if found and Path(source).is_dir():
        raise problem(checkpoint, f"source {source!r} is a model of the hub or the folder here; write './{source}'")
    return found


def pinned(checkpoint: Checkpoint) -> Checkpoint:
    """Return the checkpoint with the commit of the hub that its revision is; as it is if it comes from a folder."""
    source, revision = checkpoint.source, checkpoint.revision or ""
    if not of_hub(checkpoint) or re.fullmatch("[0-9a-f]{40}", revision):
        return checkpoint
    known = json.loads(os.environ.get(_COMMITS, "{}"))
    if (key := f"{source}@{revision}") not in known:
        known[key] = _fetch(checkpoint, "config.json").name
        os.environ[_COMMITS] = json.dumps(known)
    return replace(checkpoint, revision=known[key])


def _fetch(checkpoint: Checkpoint, *names: str) -> Path:
    """Return the folder of the cache with those of the named files that the model has; Ctrl-C ends it at once."""
    ignore_widgets()
    from huggingface_hub import snapshot_download
    from huggingface_hub.utils import tqdm

    stop, pool, source = threading.Event(), ThreadPoolExecutor(1), checkpoint.source

    class Bar(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:  # not for what is there at once
            super().__init__(*args, **{**kwargs, "delay": 1, "desc": f"{checkpoint.name}: {kwargs.get('desc') or ''}"})

        def update(self, n: float | None = 1) -> bool | None:
            if stop.is_set():
                raise CancelledError
            return super().update(n)

    asked: Any = {"revision": checkpoint.revision, "allow_patterns": list(names), "tqdm_class": Bar}
    try:
        return Path(pool.submit(snapshot_download, source, **asked).result())  # type: ignore[arg-type]
    except Exception as error:  # the hub's client raises a dozen kinds: offline, not found, gated, cache...
        kinds = "".join(traceback.format_exception(error))  # and of those that stand behind it
        advice = next(told for kind, told in _ADVICE.items() if re.search(kind, kinds)).format(first_line(error))
        revision = f" at revision {checkpoint.revision}" if checkpoint.revision else ""
        fault = f"no folder {source!r}, and it could not be had from the hub{revision}: {advice}"
        raise problem(checkpoint, fault) from error
    finally:
        stop.set()
        pool.shutdown(wait=False)


def first_line(error: BaseException) -> str:
    """Return the first line of what a library said, so that an error stays one line, without colours and bad advice."""
    text = re.sub(r"\x1b\[[\d;]*[A-Za-z]", "", str(error))
    if "weights_only" in text:  # what follows explains how to run the code of a stranger
        return "weights that hold more than numbers, which could run any code; save them as safetensors"
    return next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)


def _weight_names(checkpoint: Checkpoint, folder: Path) -> list[str]:
    """Return the file that transformers reads weights from, or the index and the files that this names."""
    asked = named(folder / "config.json", "transformers_weights")
    first = next((name for name in (*asked, *_WEIGHTS) if name in asked or (folder / name).is_file()), None)
    names = {first, *named(folder / first, "weight_map")} if first else set()
    names |= {file.name for file in folder.glob("shard-*-model-*-of-*.safetensors")}  # of torch's own checkpoints
    if out := sorted(name for name in names if ".." in Path(name).parts or Path(name).is_absolute()):
        raise problem(checkpoint, f"names weights {out[0]!r}, which is out of {str(folder)!r}; put them in there")
    return sorted(names)


def stored(checkpoint: Checkpoint, folder: Path) -> list[tuple[str, bool]]:
    """Return the names of all weights in the files, and whether each is of floating-point numbers."""
    import torch

    found = []
    for file in (folder / name for name in _weight_names(checkpoint, folder)):
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as weights:
                found += [(name, weights.get_slice(name).get_dtype() in _FLOATS) for name in weights.keys()]  # noqa: SIM118
        elif file.suffix == ".bin":
            weights = torch.load(file, map_location="cpu", weights_only=True)
            found += [(name, weight.is_floating_point()) for name, weight in weights.items()]
    return found


def named(file: Path, key: str) -> set[str]:
    """Return the names that a JSON file has under a key; what is wrong with it transformers will say."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        named = json.loads(file.read_text(encoding="utf-8"))[key]
        return set(map(str, named.values())) if isinstance(named, dict) else {str(named)} if named else set()
    return set()


def _files(checkpoint: Checkpoint, folder: Path) -> dict[str, Path]:
    """Return the files that are read, by name."""
    names = _weight_names(checkpoint, folder) if checkpoint.untrained_seed is None else []
    settings = {"config.json": folder, **dict.fromkeys(_PREPROCESSOR, preprocessor_folder(folder))}
    files = {name: settings.get(name, folder) / name for name in (*settings, *names)}
    return {name: file for name, file in files.items() if file.is_file()}


def checkpoint_fingerprint(checkpoint: Checkpoint) -> str:
    """Return a SHA-256 over names and content of a checkpoint's settings and weight files.

    Of an untrained twin: over its settings, its seed, and the versions of the libraries that draw its weights.
    """
    if checkpoint.source == LOG_MEL:
        return digest(f"{RECIPE}\0{version('transformers')}".encode())
    trained, files = checkpoint.untrained_seed is None, _files(checkpoint, locate(checkpoint))
    drawn = f"untrained\0{checkpoint.untrained_seed}\0{version('torch')}\0{version('transformers')}\n"
    parts = ["" if trained else drawn, *(f"{name}\0{content_fingerprint(file)}\n" for name, file in files.items())]
    return digest("".join(parts).encode())
