"""A study: which checkpoints and which speech are compared, and what is kept of them."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from sslsim.activations.arrays import check_arrays
from sslsim.activations.extraction import extract_all
from sslsim.activations.store import Stores
from sslsim.activations.units import FRAME, POOLS, check_steps, check_unit, in_units, marks_of
from sslsim.encoders.encoder import SITES
from sslsim.encoders.files import expected_step
from sslsim.encoders.lineup import LOG_MEL, Checkpoint, as_toml, find_lineup, read_lineup, select
from sslsim.encoders.load import DTYPES
from sslsim.errors import SslsimError, close_match, is_text
from sslsim.resources import DATA, read_toml, write_text
from sslsim.speech.corpus import Corpus, Subset, Utterance, checked_pattern, read_corpus
from sslsim.speech.index import Segmentation
from sslsim.speech.manifests import checked_columns

EMBEDDED = "embedded"  # name of the study of the data that come with sslsim
_TABLES = {"subset": Subset, "segmentation": Segmentation}
_NONE = "none"  # TOML has no null


@dataclass(frozen=True)
class Study:
    """What is extracted; the default is the data that come with sslsim.

    At most `frames` frames are kept in all, and `queries` query rows of each attention map on average, at the same
    positions of all utterances (`sslsim.speech.positions`); None keeps all, 0 queries no attention. What is compared is
    a `unit` of speech (`sslsim.in_units`), by default the frame. The encoders compute in `dtype`: float32, or bfloat16
    or float16, which are quicker on a GPU and wrong by about a hundredth; what is stored is float32. Neurons are those
    of hidden states, or at the `site` ``ffn`` units of feed-forward layers, which come without attention and leave out
    the log-mel spectrogram. Utterances that cannot be used (unreadable, cut off, NaN, silent, shorter than a frame, too
    long) are left out and listed in ``store.skipped``, or an error if `strict`.
    """

    lineup: str | Path | Sequence[Checkpoint] = DATA / "lineup.toml"  # of `read_lineup`, or its checkpoints
    corpus: str | Path | Any = DATA / "speech" / "manifest.csv"  # a folder, manifest or dataset of `read_corpus`
    checkpoints: tuple[str, ...] = ()  # which of the lineup, see `select`; empty takes all
    subset: Subset = Subset()
    segmentation: Segmentation = Segmentation()
    frames: int | None = 25_000
    queries: int | None = 16
    unit: str = FRAME  # of `in_units`, as is the next
    pool: str = POOLS[0]
    dtype: str = "float32"
    site: str = "hidden"
    strict: bool = False
    speaker_pattern: str = ""  # of `read_corpus`, as is the next
    columns: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.checkpoints, str):
            raise SslsimError(f"checkpoints is {self.checkpoints!r}; give a list of names")
        object.__setattr__(self, "checkpoints", tuple(self.checkpoints))
        if odd := [name for name in self.checkpoints if not name or not is_text(name)]:
            raise SslsimError(f"checkpoints has {odd[0]!r}; give names of the lineup")
        checked_pattern(self.speaker_pattern)
        columns = tuple(f"{ours}={name}" for ours, name in checked_columns(self.columns).items())
        object.__setattr__(self, "columns", columns)
        for name, least in (("frames", 2), ("queries", 0)):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < least):
                raise SslsimError(f"{name} is {value!r}; it must be a whole number, {least} or more, or None for all")
        for name, known in (("dtype", DTYPES), ("site", SITES)):
            if not isinstance(value := getattr(self, name), str) or value not in known:
                raise SslsimError(f"{name} is {value!r}; known: {', '.join(known)}")
        object.__setattr__(self, "queries", self.queries if self.site == "hidden" else 0)
        check_unit(self.unit, self.pool)
        if not isinstance(self.strict, bool):
            raise SslsimError(f"strict is {self.strict!r}; it must be true or false")

    @classmethod
    def read(cls, path: str | Path, checkpoints: Sequence[str] = ()) -> "Study":
        """Read a study: ``embedded``, or a TOML file with any of a study's attributes.

        ``lineup`` and ``corpus`` are relative to the file; ``[subset]`` and ``[segmentation]`` are tables; a limit may
        be ``"none"``. `checkpoints`, if any, are taken in place of those that the study names.
        """
        if str(path) == EMBEDDED and not Path(path).exists():
            study = cls()
        else:
            content = read_toml(path, "study")
            try:
                study = cls(**_arguments(content, Path(path).absolute().parent))
            except (SslsimError, OSError) as error:
                told = f"{error.filename!r}: {error.strerror}" if isinstance(error, OSError) else error
                raise SslsimError(f"study {str(path)!r}: {told}") from error
        return replace(study, checkpoints=checkpoints) if checkpoints else study  # type: ignore[arg-type]

    def write(self, path: str | Path) -> None:
        """Write the study as a TOML file that can be read from any folder: its paths are absolute."""
        if not isinstance(self.lineup, str | Path) or not isinstance(self.corpus, str | Path):
            raise SslsimError("a study is written with a lineup file and a corpus on the disk; give paths to both")
        paths = {"lineup": find_lineup(self.lineup), "corpus": Path(self.corpus)}
        content = {field.name: getattr(self, field.name) for field in fields(self) if field.name not in _TABLES}
        lines = _lines(content | {name: str(place.absolute()) for name, place in paths.items()})
        for name in _TABLES:
            lines += ["", f"[{name}]", *_lines(asdict(getattr(self, name)))]
        write_text(path, "\n".join(lines) + "\n")

    def selected(self) -> list[Checkpoint]:
        """Return the checkpoints, in the order of `checkpoints` or of the lineup."""
        lineup = read_lineup(self.lineup) if isinstance(self.lineup, str | Path) else self.lineup
        chosen = select(lineup, self.checkpoints)
        if some := [each for each in chosen if self.site == "hidden" or each.source != LOG_MEL]:
            return some
        raise SslsimError(f"site is {self.site!r}, and {LOG_MEL} has no feed-forward layers; name other checkpoints")

    def spectrogram(self) -> "Study":
        """Return the study of the log-mel spectrogram alone, with all its frames, as `sslsim.condition` needs it."""
        return replace(self, checkpoints=(LOG_MEL,), frames=None, queries=0, site="hidden")

    def series(self) -> "Study | None":
        """Return the study of all steps of each training whose last step is among the checkpoints; None without any."""
        known = read_lineup(self.lineup) if isinstance(self.lineup, str | Path) else self.lineup
        wanted = {each.series for each in self.selected() if each.step is not None}
        steps = tuple(each.name for each in known if each.step is not None and each.series in wanted)
        return replace(self, checkpoints=steps) if len(steps) > len(wanted) else None

    def whole_corpus(self) -> Corpus:
        """Return all utterances of the corpus."""
        return read_corpus(self.corpus, self.speaker_pattern, self.columns)

    def utterances(self) -> list[Utterance]:
        """Return the subset of the corpus; audio is opened only for its length, if the subset asks for seconds."""
        chosen = self.subset.of(self.whole_corpus())
        return [u if u.clip else replace(u, path=u.path.absolute()) for u in chosen]

    def extract(self, folder: str | Path, *, executor: Executor | None = None, device: str = "auto") -> Stores:
        """Extract as the function `extract` does."""
        return extract(self, folder, executor=executor, device=device)


def extract(
    study: Study | str | Path, folder: str | Path, *, executor: Executor | None = None, device: str = "auto"
) -> Stores:
    """Run the checkpoints of a study over its corpus and keep hidden states and rows of every attention map.

    `study` may be a path, as of ``Study.read``. The stores lie in ``<folder>/<name>-<key>``, where the key is a hash of
    the content of checkpoint and audio and of what is kept of them: a changed file is extracted anew, and nothing else
    is. They are in the order of the study's checkpoints where it names some, else of the lineup.

    An extraction that was interrupted goes on where it stopped, and ends in the same bytes. It runs in `executor`, any
    of `concurrent.futures` whose workers see the same folders, by default in as many threads as torch uses; on machines
    of one kind the numbers are the same bit for bit. `device` is where encoders run: cpu, cuda, or auto for cuda if
    there is one. What is wrong with lineup, corpus or a checkpoint's files is said before any encoder is loaded.
    """
    study = study if isinstance(study, Study) else Study.read(study)
    if not folder:  # as a path it is the working directory
        raise SslsimError(f"folder is {folder!r}; say where the stores are to lie")
    corpus = checked(study)
    stores = extract_all(study, Path(folder).absolute(), executor, device)
    return stores if study.unit == FRAME else in_units(stores, study.unit, study.pool, corpus)


def checked(study: Study) -> Corpus | None:
    """Return the corpus of a study that needs it; raise if its arrays or its units cannot be, before audio is read."""
    chosen = study.selected()
    if study.unit == FRAME and not any(each.times for each in chosen):
        return None
    corpus = study.whole_corpus()
    check_arrays(chosen, [utterance.id for utterance in corpus])
    if study.unit.endswith("ms"):  # a step of the clock
        check_steps(study.unit, {each.name: 1000 * expected_step(each) for each in chosen})
    marks_of(study.unit, corpus)
    return corpus


def _arguments(content: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    arguments = _values(content, Study, "")
    for name, kind in _TABLES.items():
        table = arguments.get(name, {})
        if not isinstance(table, dict):
            raise SslsimError(f"{name} is {table!r}; it must be a table [{name}]")
        arguments[name] = kind(**_values(table, kind, f"[{name}]: "))
    for name in sorted({"lineup", "corpus"} & arguments.keys()):
        if not arguments[name] or not is_text(arguments[name]):
            raise SslsimError(f"{name} is {arguments[name]!r}; it must be a path")
        arguments[name] = find_lineup(arguments[name], folder) if name == "lineup" else folder / arguments[name]
    return arguments


def _values(table: Mapping[str, Any], kind: Any, where: str) -> dict[str, Any]:
    known = [field.name for field in fields(kind)]
    if odd := [key for key in table if key not in known]:
        raise SslsimError(f"{where}unknown key {odd[0]!r}{close_match(odd[0], known)}")
    return {key: None if value == _NONE else value for key, value in table.items()}


def _lines(content: Mapping[str, Any]) -> list[str]:
    """Return values as TOML: its strings, numbers and lists are written as in JSON."""
    values = {name: _NONE if value is None else value for name, value in content.items()}
    return [f"{name} = {as_toml(list(value) if isinstance(value, tuple) else value)}" for name, value in values.items()]
