"""The command line: ``sslsim run``, ``extract``, ``checkpoints``, ``measures``, ``parameters``, ``notebooks`` and more.

Each command imports what it needs when it is called: ``sslsim --help`` must not wait for torch.
"""

import argparse
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sslsim import __version__
from sslsim.errors import SslsimError
from sslsim.reports.bundle import bundle
from sslsim.reports.jobs import EMBEDDED, FIELDS, ORDER, Request, find, study_of
from sslsim.reports.parameters import Parameter, check, read_parameters
from sslsim.resources import DATA, NOTEBOOKS, size_told

_ABOUT = """\
Compare self-supervised speech encoders: do they represent speech alike, and where, in neurons, layers, attention
heads? Without options a command takes the small models and the speech that come with sslsim."""
_EXAMPLES = """\
examples:
  sslsim run                                       all notebooks on the embedded data, pages in reports/
  sslsim run layers -p frames=5000                 one notebook, with a parameter
  sslsim run --lineup mine.toml --corpus speech/   your own checkpoints and audio
  sslsim run my-notebook.ipynb --study mine.toml   your own notebook, and a file that says what is compared
  sslsim run --sweep seed=0,1 --sweep frames=2000,4000 --out s
                                                   a run for each of four combinations, and an index over them
  sslsim compare-runs reports other-reports        what differs between two reports folders
  sslsim bundle reports                            one zip of a reports folder, to send
  sslsim parameters layers                         what -p can set
  sslsim notebooks mine/                           the notebooks, to edit

exit status: 0 done; 1 a notebook failed (its page shows where), or runs differ; 2 what was asked for cannot run."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command, given as words after the program's name (those of the process by default); return its status."""
    words = sys.argv[1:] if argv is None else argv
    arguments = _parser().parse_args(words)
    if address := vars(arguments).get("scheduler"):
        os.environ["SSLSIM_SCHEDULER"] = address  # all that computes finds it, notebooks' kernels too
    if vars(arguments).get("fresh"):
        os.environ["SSLSIM_FRESH"] = str(time.time())
    # like Ctrl-C, so that kernels are ended and temporary files removed
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if empty := [word for word in words if re.fullmatch(r"(--[\w-]+=)?[\s,]*", word)]:  # as a path, this folder
            raise SslsimError(f"{empty[0]!r} among the arguments is empty; give it a value, or leave it out")
        return arguments.command(arguments) or 0
    except KeyboardInterrupt:
        print("sslsim: interrupted", file=sys.stderr, flush=True)
        if argv is None:  # Python would wait for calls that were left behind, and take seconds to put torch away
            sys.stdout.flush()
            os._exit(130)
        return 130
    except (SslsimError, OSError) as error:
        if os.environ.get("SSLSIM_DEBUG"):
            raise
        print(f"sslsim: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    finally:
        signal.signal(signal.SIGTERM, before)


def _parser() -> argparse.ArgumentParser:
    shared: dict[str, Any] = {"formatter_class": argparse.RawDescriptionHelpFormatter}
    parser = argparse.ArgumentParser("sslsim", description=_ABOUT, epilog=_EXAMPLES, **shared)
    parser.add_argument("--version", action="version", version=f"sslsim {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add(name: str, command: Callable[..., int | None], told: str, **more: Any) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=told, **shared, **more)
        added.set_defaults(command=command)
        return added

    _add_run(add("run", _run, "run notebooks and write reports", epilog=_EXAMPLES))
    _add_extract(add("extract", _extract, "keep hidden states and attention of a corpus"))
    _add_compare(add("compare-runs", _compare, "show what differs between two reports folders"))
    zipped = add("bundle", _bundle, "zip a reports folder, without activations, to send")
    zipped.add_argument("out", type=Path, metavar="OUT", help="a reports folder")
    zipped.add_argument("zip", type=Path, nargs="?", metavar="ZIP", help="file to write; default OUT.zip beside it")
    checkpoints = add("checkpoints", _checkpoints, "show the checkpoints of a lineup")
    checkpoints.description = "Load each checkpoint of a lineup; show its sizes, its commit and a hash of its content."
    checkpoints.add_argument("--lineup", default=str(DATA / "lineup.toml"), help=_help("lineup"))
    pin = "write the lineup as FILE, each model of the hub with the commit that it is now, and load nothing"
    checkpoints.add_argument("--pin", type=Path, metavar="FILE", help=pin)
    add("measures", _measures, "show the measures, their ranges and directions")
    parameters = add("parameters", _parameters, "show what -p can set in a notebook")
    parameters.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help="a name or path; default all")
    arrays = add("import", _import, "keep activations of your own as a store")
    arrays.description = (
        "Keep the arrays of a folder, one .npy or .safetensors (layers, frames, neurons) an utterance, called by its\n"
        "id, as a store like any other: for sslsim.open in a notebook, beside stores of encoders."
    )
    arrays.add_argument("folder", type=Path, metavar="FOLDER", help="of the arrays")
    arrays.add_argument("--name", required=True, help="what tables and figures call it")
    arrays.add_argument("--family", help="for grouping")
    store = "the store; default %(default)s"
    arrays.add_argument("--out", type=Path, default=Path("reports/store"), metavar="STORE", help=store)
    arrays.add_argument("--like", type=Path, metavar="DIR", help="a store of the same utterances, to be paired with it")
    arrays.add_argument("--times", metavar="FIRST,STEP", help="centres of frames in seconds; default 0.0125,0.02")
    notebooks = add("notebooks", _notebooks, "copy the notebooks into a folder, to edit")
    notebooks.add_argument("folder", type=Path, metavar="DIR", help="made if missing; no file in it is replaced")
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Extract what is missing, run notebooks headlessly and write a page each, with its tables (CSV, Parquet) and\n"
        "figures (PNG, SVG), index.html, run.json, and study.toml, which says what was compared."
    )
    parser.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help=f"{', '.join(ORDER)}, or a path; default all")
    parser.add_argument("--out", type=Path, default=Path("reports"), help="folder for reports; default %(default)s")
    parser.add_argument("--store", type=Path, help="folder for extracted activations; default OUT/store")
    parser.add_argument("--device", help="cpu, cuda, or auto; default what the notebook says")
    several: dict[str, Any] = {"action": "append", "default": []}
    told = "a notebook's parameter, as declared in its parameters cell; lists as a,b,c; may be repeated"
    parser.add_argument("-p", dest="parameters", metavar="NAME=VALUE", help=told, **several)
    told = (
        "a run for every combination of values of a parameter or of the study, may be repeated; in folders of OUT such "
        "as frames-5000_seed-0, with one index and one store. A file has [[run]] tables: name, notebooks, and names "
        "with a value or a list of values. What is done already is not run again"
    )
    parser.add_argument("--sweep", metavar="NAME=V,V|FILE.toml", help=told, **several)
    parser.add_argument("--fresh", action="store_true", help="compute anew what is kept beside the stores")
    parser.add_argument("--dry-run", action="store_true", dest="dry", help="check values and say what would be done")
    parser.add_argument("--jobs", type=int, metavar="N", help="notebooks at a time; default one a processor")
    _add_study(parser)


def _add_extract(parser: argparse.ArgumentParser) -> None:
    parser.description = "Run checkpoints over a corpus once. What is already in the store is not extracted again."
    store = Path("reports/store")
    parser.add_argument("--out", type=Path, default=store, metavar="STORE", help="the store; default %(default)s")
    parser.add_argument("--device", default="auto", help="cpu, cuda, or cuda if there is one; default %(default)s")
    _add_study(parser)


def _add_study(parser: argparse.ArgumentParser) -> None:
    """Add what says what is extracted, and where it is computed."""
    told = "compute on a dask cluster whose workers see the same folders"
    parser.add_argument("--scheduler", metavar="ADDRESS", help=told)
    study = parser.add_argument_group("what is compared: a study, and other values in some of its fields")
    study.add_argument("--study", default=EMBEDDED, metavar="FILE", help="a study in TOML; default the embedded data")
    metavars = {"str": "X", "int": "N", "int | None": "N", "float": "S", "float | None": "S", "list[str]": "A,B"}
    for name, field in FIELDS.items():
        flag = {"action": "store_true", "default": None} if field.type == "bool" else {"metavar": metavars[field.type]}
        study.add_argument(f"--{name.replace('_', '-')}", help=_help(name), **flag)


def _help(name: str) -> str:
    field = FIELDS[name]
    default = "none, no limit" if field.default is None else field.default or "all" if field.default != 0 else 0
    return field.help if field.type == "bool" else f"{field.help}; default {default}".replace("%", "%%")


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Compare what two runs were made from, their claims and every table that both have, and write a page.\n"
        "Exit status: 0 no difference; 1 a difference in results, parameters, checkpoints or speech; 2 an error.\n"
        "Versions, commit, code and folders are shown too, but do not count."
    )
    parser.add_argument("a", type=Path, metavar="A", help="a reports folder")
    parser.add_argument("b", type=Path, metavar="B", help="another, or one run of a sweep")
    parser.add_argument("--out", type=Path, metavar="PAGE", help="default B/compare-A.html, with the name of folder A")
    small = "the largest absolute difference of two numbers that does not count; default %(default)s"
    parser.add_argument("--tolerance", type=float, default=1e-9, metavar="T", help=small)


def _fields(arguments: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name in FIELDS if (value := getattr(arguments, name)) is not None}


def _run(arguments: argparse.Namespace) -> int:
    from sslsim.reports import runner, sweep

    parameters: dict[str, str] = {}
    for pair in arguments.parameters:
        name, equals, value = (part.strip() for part in pair.partition("="))
        if not equals or not name:
            raise SslsimError(f"-p {pair}: expected NAME=VALUE")
        if name in parameters:
            raise SslsimError(f"parameter {name} is given twice: {parameters[name]!r} and {value!r}")
        parameters[name] = value
    options = {name: getattr(arguments, name) for name in ("out", "store", "study", "device", "jobs", "dry")}
    request = Request(**options, notebooks=tuple(arguments.notebooks), fields=_fields(arguments), parameters=parameters)
    return sweep.run(arguments.sweep, request) if arguments.sweep else runner.run(request)


def _extract(arguments: argparse.Namespace) -> None:
    study = study_of(arguments.study, _fields(arguments))
    check(Parameter("device", "str", "auto"), arguments.device)
    for store in study.extract(arguments.out, device=arguments.device):
        print(f"{store.checkpoint.name}: {store.n_layers} layers, {store.n_frames:,} frames, {store.root}")


def _compare(arguments: argparse.Namespace) -> int:
    from sslsim.reports.diff import compare_runs

    return compare_runs(arguments.a, arguments.b, out=arguments.out, tolerance=arguments.tolerance)


def _bundle(arguments: argparse.Namespace) -> None:
    target = bundle(arguments.out, arguments.zip)
    print(f"{target}: {size_told(target.stat().st_size)}")


def _checkpoints(arguments: argparse.Namespace) -> None:
    from sslsim.encoders.files import checkpoint_fingerprint, pinned
    from sslsim.encoders.lineup import read_lineup, write_lineup
    from sslsim.encoders.load import load_encoder

    rows, lineup = [], [pinned(checkpoint) for checkpoint in read_lineup(arguments.lineup)]
    if arguments.pin:
        write_lineup(arguments.pin, lineup)
    for checkpoint in lineup if not arguments.pin else ():
        row = {name: getattr(checkpoint, name) for name in ("name", "family", "size")}
        if checkpoint.times:
            rows.append(row | {"features": "arrays"})
            continue
        anatomy, said = load_encoder(checkpoint).anatomy, {True: "yes", False: "no"}
        row |= {name: getattr(anatomy, f"n_{name}") for name in ("layers", "neurons", "heads")}
        row |= {"layers are": "LayerNorm" if anatomy.normed else "residual", "final norm": said[anatomy.final_norm]}
        row |= {key: said.get(value, value) for key, value in anatomy.input.items()}
        row |= {"parameters": f"{anatomy.parameters:,}", "finetuned from": checkpoint.finetuned_from or ""}
        row |= {"seed of": checkpoint.seed_of or "", "weights": checkpoint.weights}
        row |= {"adapter": row.get("adapter", ""), "commit": checkpoint.revision or ""}
        rows.append(row | {"fingerprint": checkpoint_fingerprint(checkpoint)[:12]})
    _print_table(rows or [{"name": each.name, "commit": each.revision or ""} for each in lineup])


def _measures(_: argparse.Namespace) -> None:
    from sslsim.measures.registry import reference_table

    _print_table(reference_table())


def _parameters(arguments: argparse.Namespace) -> None:
    for path in find(arguments.notebooks):
        print(f"{path.stem}:")
        _print_table([{**vars(p), "default": repr(p.default)} for p in read_parameters(path).values()])


def _import(arguments: argparse.Namespace) -> None:
    from sslsim.activations.arrays import ArrayFiles, from_arrays
    from sslsim.activations.store import open_store

    try:
        times: Any = arguments.times and tuple(map(float, arguments.times.split(",")))
    except ValueError:
        raise SslsimError(f"--times {arguments.times}: give two numbers of seconds, such as 0.0125,0.02") from None
    like = open_store(arguments.like) if arguments.like else None
    options: dict[str, Any] = {"times": times or None, "like": like, "family": arguments.family}
    files = ArrayFiles(arguments.folder)
    arrays = files.only(set(like.index.utterance)) if like else files
    store = from_arrays(arguments.name, arrays, arguments.out, **options)
    if (there := open_store(store.root).checkpoint) != store.checkpoint:  # for others than this process
        told = f"is there already, of the family {there.family!r}; delete it first"
        raise SslsimError(f"store {str(store.root)!r}: {told}, or give another name")
    what = f"{store.n_layers} layers of {store.n_neurons} neurons, {store.n_frames:,} frames"
    print(f"{store.name}: {what} of {len(store.index):,} utterances, {store.root}")


def _notebooks(arguments: argparse.Namespace) -> None:
    files = [*sorted(NOTEBOOKS.glob("*.ipynb")), NOTEBOOKS / "README.md"]  # their settings name it
    if there := [file.name for file in files if (arguments.folder / file.name).exists()]:
        raise SslsimError(f"{arguments.folder} has {', '.join(there)} already; name another folder, or move them away")
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for file in files:
        print(shutil.copyfile(file, arguments.folder / file.name))


def _print_table(rows: Any) -> None:
    """Print a table or list of dicts with words aligned left."""
    import pandas as pd

    table = pd.DataFrame(rows, dtype=object).fillna("").astype(str)
    widths = {name: max(len(name), *table[name].str.len()) for name in table}
    for row in (list(table), *table.itertuples(index=False)):
        print("  ".join(text.ljust(width) for text, width in zip(row, widths.values(), strict=True)).rstrip())
