"""The command line: ``sslsim run``, ``compare-runs``, ``extract``, ``checkpoints``.

Each command imports what it needs when it is called: ``sslsim --help`` must not wait for torch.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from sslsim import DATA, __version__
from sslsim.errors import SslsimError

if TYPE_CHECKING:
    from sslsim.activations.store import ActivationStore
    from sslsim.reports.jobs import Job

LINEUP = DATA / "lineup.toml"
CORPUS = DATA / "speech" / "manifest.csv"
# parameters of a notebook that are options of extraction; of the last, 0 stands for no limit
_EXTRACTION = ("checkpoints", "queries", "seed", "strict", "device", "dtype", "piece_seconds", "longest_seconds")
_LIMITS = ("max_utterances", "max_seconds", "per_speaker")

_ABOUT = """\
Compare self-supervised speech encoders: do they represent speech alike, and where, in neurons, layers, attention
heads? Without options a command takes the small models and the speech that come with sslsim."""
_EXAMPLES = """\
examples:
  sslsim run                                       all notebooks on the embedded data, pages in reports/
  sslsim run layers -p frames=5000                 one notebook, with a parameter
  sslsim run --lineup mine.toml --corpus speech/   your own checkpoints and audio
  sslsim run my-notebook.ipynb -p frames=5000      your own notebook
  sslsim run --sweep seed=0,1 draws=20,99 --out s  a run for each of four combinations, and an index over them
  sslsim compare-runs reports other-reports        what differs between two reports folders
  sslsim checkpoints --lineup mine.toml            what a lineup file names

exit status: 0 done; 1 a notebook failed (its page shows where), or runs differ; 2 what was asked for cannot run."""
_LINEUP = (
    "TOML file with [[checkpoint]] tables: name, source (folder or hub id), and if you like revision, family, size, "
    "finetuned_from, seed_of, untrained_seed; or paper, the public checkpoints of the paper"
)
_STRICT = "stop if an utterance cannot be used; default leave it out and say so"
_SCHEDULER = "compute on a dask cluster whose workers see the same folders"
_CORPUS = "folder of audio, a manifest .csv, .tsv or .jsonl with id, path, speaker, text, or a saved dataset"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit status.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments after the program's name; those of the process unless given.
    """
    arguments = _parser().parse_args(argv)
    before = signal.signal(signal.SIGTERM, _interrupt)  # so that workers are ended and temporary files removed
    try:
        return arguments.command(arguments)
    except KeyboardInterrupt:
        print("sslsim: interrupted", file=sys.stderr)
        return 130
    except (SslsimError, OSError) as error:
        if os.environ.get("SSLSIM_DEBUG"):
            raise
        print(f"sslsim: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(*_: Any) -> NoReturn:
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    shared: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser("sslsim", description=_ABOUT, epilog=_EXAMPLES, **shared)
    parser.add_argument("--version", action="version", version=f"sslsim {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_run(commands.add_parser("run", help="run notebooks and write reports", epilog=_EXAMPLES, **shared))
    _add_compare(commands.add_parser("compare-runs", help="show what differs between two reports folders", **shared))
    _add_extract(commands.add_parser("extract", help="keep hidden states and attention of a corpus", **shared))
    _add_checkpoints(commands.add_parser("checkpoints", help="show the checkpoints of a lineup", **shared))
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Extract what is missing, run notebooks headlessly and write a page each, with its tables (CSV, Parquet) and\n"
        "figures (PNG, SVG), index.html and run.json."
    )
    parser.add_argument(
        "notebooks",
        nargs="*",
        metavar="NOTEBOOK",
        help="neurons, layers, attention, finetuning, or a path; default all",
    )
    _add_inputs(parser)
    parser.add_argument("--out", type=Path, default=Path("reports"), help="folder for reports; default %(default)s")
    parser.add_argument("--store", type=Path, help="folder for extracted activations; default OUT/store")
    parser.add_argument(
        "-p", dest="parameters", action="append", default=[], metavar="NAME=VALUE",
        help="a notebook's parameter, as declared in its parameters cell; lists as a,b,c; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--sweep", nargs="+", action="extend", default=[], metavar="NAME=V,V|FILE.toml",
        help="a run for every combination of values, in folders of OUT such as frames-5000_seed-0, with one index "
        "and one store; a file has [[run]] tables: name, notebooks, and parameters, lineup, corpus, with a value "
        "or a list of values; what is done already is not run again; words here without = and .toml are notebooks",
    )  # fmt: skip
    parser.add_argument("--strict", action="store_true", help=_STRICT)
    parser.add_argument("--workers", type=int, metavar="N", help="notebooks at a time; default one a processor")
    parser.add_argument("--scheduler", metavar="ADDRESS", help=f"{_SCHEDULER}: -p scheduler=ADDRESS")
    parser.set_defaults(command=_run)


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Compare what two runs were made from, their verdicts and every table that both have, and write a page.\n"
        "Exit status: 0 no difference; 1 a difference in results, parameters, checkpoints or speech; 2 an error.\n"
        "Versions, commit, code and folders are shown too, but do not count."
    )
    parser.add_argument("a", type=Path, metavar="A", help="a reports folder")
    parser.add_argument("b", type=Path, metavar="B", help="another, or one run of a sweep")
    parser.add_argument("--out", type=Path, metavar="PAGE", help="default B/compare-A.html, with the name of folder A")
    parser.add_argument(
        "--tolerance", type=float, default=1e-9, metavar="T",
        help="the largest absolute difference of two numbers that does not count; default %(default)s",
    )  # fmt: skip
    parser.set_defaults(command=_compare)


def _add_extract(parser: argparse.ArgumentParser) -> None:
    parser.description = "Run checkpoints over a corpus once. What is already in the store is not extracted again."
    _add_inputs(parser)
    store = Path("reports") / "store"
    parser.add_argument("--out", type=Path, default=store, metavar="STORE", help="the store; default %(default)s")
    parser.add_argument(
        "--checkpoints", type=_names, default=[], metavar="A,B",
        help="names of the lineup, untrained:NAME[:SEED], log-mel; default all of the lineup",
    )  # fmt: skip
    kept = parser.add_argument_group("what is kept of each utterance, evenly spaced")
    kept.add_argument("--frames", type=_count, default="all", metavar="N|all", help="frames; default %(default)s")
    kept.add_argument(
        "--queries", type=_count, default=16, metavar="N|all", help="rows of each attention map; default %(default)s"
    )
    drawn = parser.add_argument_group("which utterances; default all")
    drawn.add_argument("--max-utterances", type=int, metavar="N", help="at most N, drawn at random")
    drawn.add_argument("--max-seconds", type=float, metavar="S", help="at most so much audio, drawn at random")
    drawn.add_argument("--per-speaker", type=int, metavar="N", help="at most N of each speaker, drawn at random")
    drawn.add_argument("--seed", type=int, default=0, metavar="N", help="of the draw; default %(default)s")
    drawn.add_argument(
        "--piece-seconds", type=float, default=30.0, metavar="S",
        help="longer ones are cut into equal pieces no longer than this; default %(default)s",
    )  # fmt: skip
    drawn.add_argument(
        "--longest-seconds", type=float, default=3600.0, metavar="S",
        help="longer ones are left out; default %(default)s",
    )  # fmt: skip
    drawn.add_argument("--strict", action="store_true", help=_STRICT)
    parser.add_argument("--device", default="cpu", help="cpu or cuda; default %(default)s")
    parser.add_argument(
        "--dtype", default="float32", help="float32, or bfloat16 or float16 on a GPU; default %(default)s"
    )
    parser.add_argument("--scheduler", default="", metavar="ADDRESS", help=_SCHEDULER)
    parser.set_defaults(command=_extract)


def _add_checkpoints(parser: argparse.ArgumentParser) -> None:
    parser.description = "Load each checkpoint of a lineup and show its sizes, and a hash of its content."
    parser.add_argument("--lineup", type=_lineup, default=LINEUP, help=f"{_LINEUP}; default the embedded one")
    parser.set_defaults(command=_checkpoints)


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--lineup", type=_lineup, default=LINEUP, help=f"{_LINEUP}; default the embedded one")
    parser.add_argument("--corpus", type=Path, default=CORPUS, help=f"{_CORPUS}; default the embedded one")


def _lineup(text: str) -> Path:
    from sslsim.encoders.lineup import find_lineup

    return find_lineup(text)


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _count(text: str) -> int | str:
    if text != "all" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor 'all'")
    return text if text == "all" else int(text)


def _assignments(pairs: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        name = name.strip()
        if not equals or not name:
            raise SslsimError(f"-p {pair}: expected NAME=VALUE")
        if name in found:
            raise SslsimError(f"parameter {name} is given twice: {found[name]!r} and {value!r}")
        found[name] = value
    return found


def _run(arguments: argparse.Namespace) -> int:
    from sslsim.reports import runner as report
    from sslsim.reports import sweep

    parameters = _assignments(arguments.parameters)
    if arguments.scheduler:
        parameters.setdefault("scheduler", arguments.scheduler)
    options = {name: getattr(arguments, name) for name in ("lineup", "corpus", "out", "store", "workers")}
    prepare = partial(_prepare, strict=arguments.strict)
    # argparse gives --sweep all words after it, notebooks too
    swept = [word for word in arguments.sweep if "=" in word or word.endswith(".toml")]
    notebooks = [*arguments.notebooks, *(word for word in arguments.sweep if word not in swept)]
    if not arguments.sweep:
        return report.run(notebooks, parameters=parameters, prepare=prepare, **options)
    if not swept:
        raise SslsimError(f"--sweep {' '.join(arguments.sweep)}: expected NAME=VALUE,VALUE or FILE.toml")
    return sweep.run(swept, notebooks, parameters=parameters, prepare=partial(prepare, opened={}), **options)


def _compare(arguments: argparse.Namespace) -> int:
    from sslsim.reports.diff import compare_runs

    return compare_runs(arguments.a, arguments.b, out=arguments.out, tolerance=arguments.tolerance)


def _prepare(
    jobs: list[Job], *, strict: bool = False, opened: dict[str, list[ActivationStore]] | None = None
) -> dict[str, Any]:
    """Extract what the notebooks will open, once for all of them, and say what it was made from.

    What `opened` has, by what was asked for, is not looked at again: checkpoints and speech are read for their hash.
    """
    from sslsim.activations.extract import extract
    from sslsim.parallel import executor

    wanted: list[dict[str, Any]] = []
    for values in (job.values for job in jobs if {"lineup", "corpus", "store"} <= set(job.declared)):
        names = ("lineup", "corpus", "store", *_EXTRACTION, "scheduler")
        call = {name: values[name] for name in names if name in values}
        call |= {"strict": True} if strict else {}
        call |= {name: values[name] or None for name in _LIMITS if name in values}
        call |= {"frames": values["frames_each"] or "all"} if "frames_each" in values else {}
        wanted += [call] if call not in wanted else []
    stores: dict[str, ActivationStore] = {}
    opened = {} if opened is None else opened
    corpora = list(dict.fromkeys(call["corpus"] for call in wanted))
    checkpoints: dict[str, dict[str, Any]] = {}
    for call in wanted:
        key = repr(call)
        paths = [call.pop(name) for name in ("lineup", "corpus", "store")]
        if key not in opened:
            scheduler = call.pop("scheduler", "")
            call |= {"executor": executor(scheduler=scheduler)} if scheduler else {}
            opened[key] = extract(*paths, **call)
        for store in opened[key]:
            stores[str(store.root)] = store
            checkpoints[str(store.root)] = _provenance(store, Path(paths[0]).parent)
    return {"checkpoints": list(checkpoints.values()), "corpus": _corpus(stores) | _marks(corpora)}


def _provenance(store: ActivationStore, lineup: Path) -> dict[str, Any]:
    checkpoint = store.checkpoint
    near = Path(checkpoint.source).is_relative_to(lineup)
    return {
        "name": checkpoint.name,
        "family": checkpoint.family,
        "size": checkpoint.size,
        "finetuned_from": checkpoint.finetuned_from,
        "seed_of": checkpoint.seed_of,
        "weights": checkpoint.weights,
        "layers": store.n_layers,
        "neurons": store.n_neurons,
        "heads": store.n_heads,
        "fingerprint": store.fingerprint,
        "source": Path(checkpoint.source).relative_to(lineup).as_posix() if near else checkpoint.source,
        "revision": checkpoint.revision,
    }


def _corpus(stores: dict[str, ActivationStore]) -> dict[str, Any]:
    from sslsim.speech.recording import SAMPLE_RATE

    if not stores:
        return {}
    store = next(iter(stores.values()))
    minutes = round(float(store.index["n_samples"].sum()) / SAMPLE_RATE / 60, 2)
    return {
        "utterances": len(store.index),
        "minutes": minutes,
        "left out": len(store.skipped),
        "fingerprint": store.corpus_fingerprint,
    }


def _marks(corpora: Iterable[Any]) -> dict[str, str]:
    """Return a hash of the time marks beside the speech, where there are any."""
    from sslsim.analysis.selectivity import marks_file

    files = [file for corpus in corpora if (file := marks_file(corpus))]
    digest = hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()
    return {"marks": digest} if files else {}


def _extract(arguments: argparse.Namespace) -> int:
    from sslsim.activations.extract import extract
    from sslsim.parallel import executor

    options = {name: value for name, value in vars(arguments).items() if name not in ("command", "scheduler")}
    paths = [options.pop(name) for name in ("lineup", "corpus", "out")]
    stores = extract(*paths, executor=executor(scheduler=arguments.scheduler), **options)
    for store in stores:
        print(f"{store.checkpoint.name}: {store.n_layers} layers, {store.n_frames:,} frames, {store.root}")
    return 0


def _checkpoints(arguments: argparse.Namespace) -> int:
    import pandas as pd

    from sslsim.encoders.load import checkpoint_fingerprint, load_encoder, read_lineup

    rows = []
    for checkpoint in read_lineup(arguments.lineup):
        anatomy = load_encoder(checkpoint).anatomy
        rows.append(
            {
                "name": checkpoint.name,
                "family": checkpoint.family,
                "size": checkpoint.size,
                "layers": anatomy.n_layers,
                "neurons": anatomy.n_neurons,
                "heads": anatomy.n_heads,
                "layers are": "LayerNorm" if anatomy.normed else "residual",
                "final norm": "yes" if anatomy.final_norm else "no",
                **{key: {True: "yes", False: "no"}.get(value, value) for key, value in anatomy.heard.items()},
                "parameters": f"{anatomy.parameters:,}",
                "finetuned from": checkpoint.finetuned_from or "",
                "seed of": checkpoint.seed_of or "",
                "weights": checkpoint.weights,
                "fingerprint": checkpoint_fingerprint(checkpoint)[:12],
            }
        )
    print(pd.DataFrame(rows).to_string(index=False))
    return 0
