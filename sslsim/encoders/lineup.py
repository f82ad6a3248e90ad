"""Which checkpoints: a lineup file is read; no checkpoint is looked at."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from numbers import Real
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from sslsim.errors import SslsimError, close_match, is_text
from sslsim.resources import DATA, read_toml, write_text
from sslsim.speech.recording import Clock

LOG_MEL = "log-mel"  # source of the checkpoint that is a spectrogram, and its name where a list asks for it
GIVEN = "given"  # and of what is known of every frame, as if it were a layer
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
LONGEST = 3600.0  # seconds from one frame to the next
_UNTRAINED = re.compile(r"untrained:(?P<name>[^:]*)(:(?P<seed>\d+))?")
T = TypeVar("T", bound=Any)  # something with a name


@dataclass(frozen=True)
class Checkpoint:
    """One encoder of a lineup; `finetuned_from` and `seed_of` name others of it."""

    name: str  # what tables and figures call it
    source: str  # a folder, a hub id org/name, or log-mel: 80 bands of a spectrogram, no weights
    revision: str | None = None  # of a hub id: best a full commit hash
    family: str = ""  # for grouping, such as wav2vec2; never used to decide how to load
    size: str = ""  # such as base
    finetuned_from: str | None = None
    seed_of: str | None = None  # whose recipe this is another run of, with other random numbers
    untrained_seed: int | None = None  # if given, the architecture with random weights of this seed
    series: str = ""  # the training that it is a step of, or was finetuned from a step of
    step: int | None = None  # which step it is
    recipe: tuple[tuple[str, Any], ...] = ()  # what else is known of how it was made: free tags
    times: tuple[float, float] | None = None  # of a folder of arrays: centre of frame 0, and step, in seconds

    def __post_init__(self) -> None:
        tags = self.recipe.items() if isinstance(self.recipe, Mapping) else self.recipe
        object.__setattr__(self, "recipe", tuple((key, value) for key, value in tags))  # lists where it was JSON
        object.__setattr__(self, "times", None if self.times is None else tuple(self.times))

    @property
    def weights(self) -> str:
        """Whence its weights: ``trained``, ``random, seed N``, or ``none``; arrays of a family are those of a model."""
        if self.source in (LOG_MEL, GIVEN) or (self.times and not self.family):
            return "none"
        return "trained" if self.untrained_seed is None else f"random, seed {self.untrained_seed}"


class ByName(list[T]):
    """A list of checkpoints, or of what was made from them, whose items go by ``list["name"]`` too."""

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            return type(self)(super().__getitem__(key))
        if not isinstance(key, str):
            return super().__getitem__(key)
        named = {item.name: item for item in self}
        if key not in named:
            raise SslsimError(f"no checkpoint {key!r} here{close_match(key, named)}")
        return named[key]

    def _ipython_key_completions_(self) -> list[str]:
        return [item.name for item in self]


class Lineup(ByName[Checkpoint]):
    """The checkpoints of a lineup in their order; in a notebook a table."""

    def _repr_html_(self) -> str:
        table = pd.DataFrame([{**asdict(c), "recipe": as_toml(c.recipe)[1:-1], "weights": c.weights} for c in self])
        table = table.astype(object).where(table.notna(), "").map(str)
        return table.loc[:, (table != "").any()].to_html(index=False)


def find_lineup(name: str | Path, folder: Path = Path()) -> Path:
    """Return the file of a lineup that comes with sslsim, given its name, or else the path, counted from `folder`."""
    near, shipped = folder / Path(name), DATA / "lineups" / f"{name}.toml"
    return shipped if not near.exists() and shipped.is_file() else near


def read_lineup(path: str | Path) -> Lineup:
    """Read the checkpoints of a lineup file, in its order.

    `path` is the name of a lineup that comes with sslsim (``paper``), or a TOML file with one ``[[checkpoint]]`` table
    each: ``name``, ``source`` (a folder, relative to this file, a hub id ``org/name``, or ``log-mel``) and optionally
    ``times`` (the folder has arrays, see `sslsim.activations.arrays`, of frames at these), ``revision``, ``family``,
    ``size``, ``finetuned_from`` and ``seed_of`` (names of others), ``untrained_seed`` (a whole number), ``series`` and
    ``step`` (of a training), ``recipe`` (a table of free tags). A table that is incomplete, misspelt or named twice is
    an error.
    """
    path = find_lineup(path)
    where = f"lineup {str(path)!r}"
    content = read_toml(path, "lineup")
    tables = content.pop("checkpoint", None)
    if content or not isinstance(tables, list) or not tables:
        raise SslsimError(f"{where}: expected [[checkpoint]] tables and nothing else")
    lineup = Lineup(_checkpoint(path, number, table) for number, table in enumerate(tables, 1))
    if twice := [name for name, times in Counter(each.name for each in lineup).items() if times > 1]:
        raise SslsimError(f"{where}: {twice[0]!r} occurs twice; give each its own name")
    for key, words in (("finetuned_from", "finetuned from"), ("seed_of", "another seed of")):
        _check_relatives(where, {checkpoint.name: getattr(checkpoint, key) for checkpoint in lineup}, words)
    steps = Counter((each.series, each.step) for each in lineup if each.step is not None)
    if again := [of for of, times in steps.items() if times > 1]:
        series, step = again[0]
        raise SslsimError(f"{where}: step {step} of the series {series!r} occurs twice; give each its own")
    return lineup


def write_lineup(path: Path, lineup: Iterable[Checkpoint]) -> None:
    """Write checkpoints as a lineup file, folders by their absolute paths; a file that is there is an error."""
    if path.exists():
        raise SslsimError(f"{str(path)!r} is there already; give the lineup another name")
    given = [{key: value for key, value in asdict(each).items() if value not in (None, "", ())} for each in lineup]
    lines = [[f"{key} = {as_toml(value)}" for key, value in table.items()] for table in given]
    write_text(path, "\n".join("\n".join(["[[checkpoint]]", *table, ""]) for table in lines))


def as_toml(value: Any) -> str:
    """Return text, a number, a list of text, or tags, as TOML has them."""
    if isinstance(value, tuple) and value and isinstance(value[0], tuple):
        return f"{{{', '.join(f'{json.dumps(key)} = {as_toml(one)}' for key, one in value)}}}"
    return repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False).replace("\x7f", r"\u007f")


def _check_relatives(where: str, parents: Mapping[str, str | None], words: str) -> None:
    """Raise if a checkpoint comes from one that is not there, or round a circle from itself."""
    for name, other in parents.items():
        if other is not None and other not in parents:
            what = f"{name!r} is {words} {other!r}, which is not in it{close_match(other, parents)}"
            raise SslsimError(f"{where}: {what}")
    for name in parents:
        chain = [name]
        while (parent := parents[chain[-1]]) is not None:
            if parent in chain:
                told = f" is {words} ".join(repr(each) for each in [*chain, parent])
                raise SslsimError(f"{where}: {told}; name the first one in both")
            chain.append(parent)


def checked(where: str, table: Any) -> Checkpoint:
    """Return the checkpoint that a table describes, its source as it is; raise if it is incomplete or misspelt."""
    if not isinstance(table, dict):
        raise SslsimError(f"{where}: {table!r} is not a table")
    known = [field.name for field in fields(Checkpoint)]
    for key, value in table.items():
        if key not in known:
            raise SslsimError(f"{where}: unknown key {key!r}{close_match(key, known)}")
        if key == "recipe":
            if not isinstance(value, Mapping) or not all(isinstance(v, str | int | float) for v in value.values()):
                raise SslsimError(f'{where}: {key} is {value!r}; give a table of text and numbers, {{data = "LS960"}}')
        elif key == "times":
            clock_at(where, value)
        elif key in ("untrained_seed", "step"):
            if type(value) is not int or value < 0:
                raise SslsimError(f"{where}: {key} is {value!r}; it must be a whole number, 0 or more")
        elif not is_text(value):
            raise SslsimError(f"{where}: {key} is {value!r:.80}; it must be a string")
    for key in ("name", "source"):
        if not table.get(key):
            raise SslsimError(f"{where}: no {key}")
    if ("step" in table) != bool(table.get("series")) and ("step" in table or not table.get("finetuned_from")):
        raise SslsimError(f"{where}: series and step go together; give both or neither")
    if odd := [key for key in ("untrained_seed", "revision") if "times" in table and key in table]:
        raise SslsimError(f"{where}: times says that {table['source']!r} has arrays, which have no {odd[0]}")
    if not re.fullmatch(r"\w[\w.+-]{,99}", table["name"]):
        told = "may hold only letters, digits and ._+-, 100 of them (it names a folder)"
        raise SslsimError(f"{where}: name {table['name']!r} {told}")
    return Checkpoint(**table)


def clock_at(where: str, times: Any) -> Clock:
    """Return the clock of frames whose first centre and step are given in seconds, to the nanosecond."""
    two = isinstance(times, Sequence) and len(times) == 2 and all(isinstance(each, Real) for each in times)
    if not two or not (0 <= times[0] <= LONGEST and 1e-3 <= times[1] <= LONGEST):
        told = "give the centre of the first frame and the step to the next, in seconds, such as [0.0125, 0.02]"
        raise SslsimError(f"{where}: times is {times!r}; {told}")
    centre, hop = (round(1e9 * each) for each in times)
    return Clock(hop=hop, needed=hop, centre=centre, rate=1_000_000_000)


def _checkpoint(path: Path, number: int, table: Any) -> Checkpoint:
    checkpoint, base = checked(f"lineup {str(path)!r}, checkpoint {number}", table), path.parent
    source, folder = checkpoint.source, base / Path(checkpoint.source).expanduser()
    of_hub = HUB_ID.fullmatch(source) and not checkpoint.times
    hub_id = of_hub and not folder.exists() and not (base / source.split("/")[0]).exists()
    return checkpoint if source == LOG_MEL or hub_id else replace(checkpoint, source=str(folder.resolve()))


def select(lineup: Iterable[Checkpoint], names: Sequence[str]) -> list[Checkpoint]:
    """Return the named checkpoints in the order of ``names``; when there are none, all but steps of a series.

    Of these the last is taken, and any that another checkpoint was finetuned from.

    ``untrained:NAME`` is the architecture of NAME with random weights of seed 0, ``untrained:NAME:SEED`` of
    another seed; their checkpoints are called ``untrained-NAME-SEED``. ``log-mel`` needs no place in the lineup.
    """
    lineup = list(lineup)
    if not lineup:
        raise SslsimError("the lineup is empty; give at least one checkpoint")
    known: dict[str, Checkpoint] = {}
    for checkpoint in lineup:
        if known.setdefault(checkpoint.name, checkpoint) != checkpoint:
            raise SslsimError(f"{checkpoint.name!r} occurs twice in the lineup; give each its own name")
    known = {name: replace(checkpoint, series=_series_of(checkpoint, known)) for name, checkpoint in known.items()}
    ends, started = ends_of_series(known.values()), {checkpoint.finetuned_from for checkpoint in known.values()}
    wanted = [each for each in known.values() if each in ends or each.name in started]
    chosen = list(dict.fromkeys(_named(name, known) for name in names)) if names else wanted
    for checkpoint in chosen:
        if known.get(checkpoint.name, checkpoint) != checkpoint and known[checkpoint.name] in chosen:
            raise SslsimError(f"{checkpoint.name!r} names two of the chosen checkpoints; rename the one in the lineup")
    return chosen


def _series_of(checkpoint: Checkpoint, known: Mapping[str, Checkpoint]) -> str:
    """Return the training that a checkpoint is from: its own series, or that of what it was finetuned from."""
    for _ in known:  # at most so many times was one finetuned from another
        checkpoint = checkpoint if checkpoint.series else known.get(checkpoint.finetuned_from or "", checkpoint)
    return checkpoint.series


def ends_of_series(checkpoints: Iterable[Checkpoint]) -> list[Checkpoint]:
    """Return the checkpoints without those of a series that are not its last step."""
    every = list(checkpoints)
    last = {each.series: max(c.step or 0 for c in every if c.series == each.series) for each in every}
    return [each for each in every if each.step is None or each.step == last[each.series]]


def _named(name: str, known: Mapping[str, Checkpoint]) -> Checkpoint:
    twin = _UNTRAINED.fullmatch(name)
    wanted = twin["name"] if twin else name
    if name == LOG_MEL and name not in known:
        return Checkpoint(LOG_MEL, LOG_MEL)
    if wanted not in known:
        raise SslsimError(f"no checkpoint {wanted!r} in the lineup{close_match(wanted, known)}")
    if not twin:
        return known[wanted]
    if known[wanted].source == LOG_MEL or known[wanted].times:
        raise SslsimError(f"{name!r}: {wanted} has no weights that could be drawn at random")
    seed = int(twin["seed"] or 0)
    alone: dict[str, Any] = {"finetuned_from": None, "seed_of": None, "series": "", "step": None}
    return replace(known[wanted], name=f"untrained-{wanted}-{seed}", untrained_seed=seed, **alone)


def problem(checkpoint: Checkpoint, text: str) -> SslsimError:
    """Return the error that says what is wrong with a checkpoint."""
    return SslsimError(f"checkpoint {checkpoint.name!r}: {text}")
