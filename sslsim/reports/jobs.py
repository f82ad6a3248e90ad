"""What a run is asked to do, checked before anything runs: notebooks, their parameters, and the study they share.

Imported for ``sslsim --help``: nothing here loads numpy until a study is made.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sslsim.errors import SslsimError, close_match
from sslsim.reports.parameters import Parameter, check, coerce, read_parameters
from sslsim.reports.record import of_notebook
from sslsim.resources import NOTEBOOKS, checked_name

if TYPE_CHECKING:
    from sslsim.activations import Study

ORDER = ("neurons", "layers", "attention", "finetuning", "contents")
FLAGS = ("study", "store", "out", "device")  # parameters of notebooks that options of the command set
EMBEDDED = "embedded"
FIELDS = {
    field.name: field
    for field in (
        Parameter("lineup", "str", "the embedded one", "TOML file with [[checkpoint]] tables: name, source (folder or "
                  "hub id), and if you like revision, family, size, finetuned_from, seed_of, untrained_seed, series, "
                  "step, recipe, times; or paper, those of the paper"),
        Parameter("corpus", "str", "the embedded one", "folder of audio or of Kaldi, a manifest .csv, .tsv or .jsonl "
                  "with path, id, speaker, text, offset, duration, one of NeMo, Common Voice or Lhotse, or a saved "
                  "dataset"),
        Parameter("speaker_pattern", "str", "", "regular expression whose first group, found in a file's path relative "
                  "to the corpus, is the speaker"),
        Parameter("columns", "list[str]", [], "what a manifest calls its columns, such as path=file,speaker=voice"),
        Parameter("checkpoints", "list[str]", [], "names of the lineup, untrained:NAME[:SEED], log-mel"),
        Parameter("max_utterances", "int | None", None, "take at most N utterances, at random"),
        Parameter("max_seconds", "float | None", None, "take at most so many seconds of audio, at random"),
        Parameter("per_speaker", "int | None", None, "take at most N utterances of each speaker, at random"),
        Parameter("seed", "int", 0, "of the choice of utterances"),
        Parameter("frames", "int | None", 25_000, "keep N frames in all, at the same positions of all utterances"),
        Parameter("queries", "int | None", 16, "keep N rows of an attention map on average; 0 keeps none"),
        Parameter("unit", "str", "frame", "what is compared: frame, phone, word, utterance, or a step such as 40ms"),
        Parameter("pool", "str", "mean", "what a unit has of its frames: their mean, or the one at its centre"),
        Parameter("piece_seconds", "float", 30.0, "cut longer utterances into equal pieces of at most so many seconds"),
        Parameter("longest_seconds", "float", 3600.0, "leave out longer utterances"),
        Parameter("dtype", "str", "float32", "of the encoders: float32, or bfloat16 or float16 on a GPU"),
        Parameter("site", "str", "hidden", "of neurons: hidden states, or ffn, the units of feed-forward layers"),
        Parameter("strict", "bool", False, "stop if an utterance cannot be used; else it is left out and named"),
    )
}  # fmt: skip
"""The fields of a study that can be given one by one, with the study's own defaults."""


@dataclass(frozen=True)
class Request:
    """What is asked for: of one run, or of all runs of a sweep.

    `notebooks` are names of shipped ones or paths; empty means those of `ORDER`. `study` is a study file or
    ``embedded``, `fields` are values that replace its own. Each of `parameters`, as text or typed, goes to those of the
    notebooks that have it. `swept` are those of both, as they were given, that one run of a sweep has for itself. At
    most so many `jobs`, notebooks at a time; as many as there are processors by default. `dry`: it is only told.
    """

    out: Path
    store: Path | None = None
    notebooks: tuple[str, ...] = ()
    study: str = EMBEDDED
    fields: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    swept: Mapping[str, Any] = field(default_factory=dict)
    device: str | None = None
    jobs: int | None = None
    dry: bool = False

    @property
    def settings(self) -> dict[str, str]:
        """What options of the command set in notebooks that have parameters of these names."""
        paths = {"study": self.out / "study.toml", "store": self.store or self.out / "store", "out": self.out}
        return {n: str(path.resolve()) for n, path in paths.items()} | ({"device": self.device} if self.device else {})


@dataclass(frozen=True)
class Job:
    """One notebook and the values of its parameters.

    `given` are those that replace defaults, `table` has one row a parameter: name, type, default, help, value; `origin`
    says which file it was when the run was asked for.
    """

    name: str
    path: Path
    given: dict[str, Any]
    table: list[dict[str, Any]]
    origin: dict[str, Any]

    @property
    def values(self) -> dict[str, Any]:
        """All parameters with the values that the notebook will see."""
        return {row["name"]: row["value"] for row in self.table}


def plan(request: Request) -> list[Job]:
    """Return the notebooks of a run with the values of their parameters; an error if anything in it is unknown."""
    files = find(request.notebooks)
    names = [checked_name(path.stem, "notebook") for path in files]
    if taken := [name for name in names if names.count(name) > 1 or name == "index"]:
        raise SslsimError(f"notebook {taken[0]!r}: each page needs a name of its own, other than 'index'")
    declared = [read_parameters(path) for path in files]
    known = {name for each in declared for name in each} - set(FLAGS)
    for name in request.parameters:
        if name in FLAGS or (name in FIELDS and name not in known):
            raise SslsimError(f"parameter {name} is set with --{name.replace('_', '-')}, not with -p")
        if name not in known:
            raise SslsimError(f"unknown parameter {name!r}{close_match(name, known)}")
    return [_job(request, path, each) for path, each in zip(files, declared, strict=True)]


def find(notebooks: Sequence[str]) -> list[Path]:
    """Return the files of notebooks by name or path; of no names, the shipped ones that make reports."""
    found = []
    for notebook in notebooks or [name for name in ORDER if (NOTEBOOKS / f"{name}.ipynb").is_file()]:
        shipped = not notebook.endswith(".ipynb")
        path = (NOTEBOOKS / f"{notebook}.ipynb" if shipped else Path(notebook)).resolve()
        if not path.is_file():
            known = [path.stem for path in NOTEBOOKS.glob("*.ipynb")]
            unknown = f"unknown notebook {notebook!r}{close_match(notebook, known)}"
            raise SslsimError(unknown if shipped else f"notebook not found: {path}")
        found.append(path)
    if not found:
        raise SslsimError(f"no notebooks in {NOTEBOOKS}; name one: sslsim run path/to/notebook.ipynb")
    return found


def _job(request: Request, path: Path, declared: Mapping[str, Parameter]) -> Job:
    """Return a notebook with its values; it keeps a study of its own if the command names none."""
    settings: dict[str, Any] = request.settings
    own = declared["study"].default if "study" in declared else EMBEDDED
    if own != EMBEDDED and request.study == EMBEDDED and not request.fields:
        settings["study"] = str((path.parent / own).resolve())
    given = {name: value for name, value in settings.items() if name in declared}
    given |= {name: coerce(declared[name], value) for name, value in request.parameters.items() if name in declared}
    for name in {"device", *request.parameters} & set(given):
        check(declared[name], given[name])
    table = [vars(p) | {"value": given.get(p.name, p.default)} for p in declared.values()]
    return Job(path.stem, path, given, table, of_notebook(path))


def study_of(file: str | Path = EMBEDDED, given: Mapping[str, Any] | None = None) -> "Study":
    """Return the study of a file, or ``embedded``, with other values in some of its fields.

    `given` are values by the names of `FIELDS`, as text or typed, paths counted from the working directory. It is an
    SslsimError if the file is no study, a value does not have its type, or there is no such lineup or corpus.
    """
    from sslsim.activations import Study
    from sslsim.encoders.lineup import find_lineup

    values = {name: coerce(FIELDS[name], value) for name, value in (given or {}).items()}
    for name in {"lineup", "corpus"} & set(values):
        path = find_lineup(values[name]) if name == "lineup" else Path(values[name])
        values[name] = path.resolve()
        if not path.exists():
            raise SslsimError(f"{name} not found: {values[name]}; give an existing one with --{name}")
    study = Study.read(file)
    for part in ("subset", "segmentation"):
        of_part = {each.name for each in fields(getattr(study, part))} & set(values)
        values[part] = replace(getattr(study, part), **{name: values.pop(name) for name in of_part})
    return replace(study, **values)


def described(study: "Study") -> dict[str, Any]:
    """Return what a study says, by the names of `FIELDS`."""
    parts = (study, study.subset, study.segmentation)
    return {name: next(getattr(part, name) for part in parts if hasattr(part, name)) for name in FIELDS}
