"""Lists of utterances: manifests, those of several toolkits too, and Kaldi's folders. Nothing that they say is run."""

import csv
import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import pandas as pd

from sslsim.errors import SslsimError, close_match, is_text

COLUMNS: dict[str, tuple[str, ...]] = {  # and what datasets, NeMo and Common Voice call them
    "id": (), "path": ("audio_filepath",), "speaker": ("speaker_id", "client_id"), "text": ("sentence",),
    "offset": (), "duration": (),
}  # fmt: skip
_LINES = (".jsonl", ".jsonl.gz", ".json")
_SUFFIXES = (".csv", ".tsv", *_LINES)


def checked_columns(columns: Sequence[str]) -> dict[str, str]:
    """Return what columns are called, from pairs such as ``path=file``."""
    pairs = [str(pair).partition("=") for pair in ([columns] if isinstance(columns, str) else columns)]
    if odd := [ours for ours, _, theirs in pairs if ours not in COLUMNS or not theirs]:
        raise SslsimError(f"columns has {odd[0]!r}{close_match(odd[0], COLUMNS)}; give pairs such as path=file")
    return {ours: theirs for ours, _, theirs in pairs}


def read_list(path: Path, columns: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the rows of `utterance_rows` of a manifest or a Kaldi folder, with paths counted from its place."""
    folder, where = (path, "Kaldi folder") if path.is_dir() else (path.parent, "manifest")
    if not path.is_dir() and not path.name.lower().endswith(_SUFFIXES):
        raise SslsimError(f"corpus {str(path)!r}: neither a folder nor a manifest ({', '.join(_SUFFIXES)})")
    try:
        table = _kaldi(path) if path.is_dir() else read_table(path)
        table = _lhotse(path, table) if {"recording_id", "sources"} & set(table) else table
    except (ValueError, LookupError, TypeError, AttributeError, OSError, EOFError, RecursionError, zlib.error) as error:
        told = f"no {error} where it should be" if isinstance(error, LookupError) else error
        raise SslsimError(f"{where} {str(path)!r}: cannot be read: {told}") from error
    if "client_id" in table and (folder / "clips").is_dir():  # Common Voice leaves it out
        folder = folder / "clips"
    return [row | {"path": folder / row["path"]} for row in utterance_rows(table, f"{where} {str(path)!r}", columns)]


def utterance_rows(table: pd.DataFrame, where: str, columns: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return id, path, speaker, text, and start and end in seconds of each row, without the last two for a whole file.

    Without ids they are paths without suffix, and of several stretches of a file with their offsets.
    """
    asked = {ours: [columns[ours]] if ours in columns else [ours, *others] for ours, others in COLUMNS.items()}
    names = {ours: next((name for name in theirs if name in table), "") for ours, theirs in asked.items()}
    if "channel_selector" in table:
        raise SslsimError(f"{where}: has channel_selector; channels are not read apart, write each to a file")
    if missing := [repr(asked[ours][0]) for ours in dict.fromkeys(["path", *columns]) if not names[ours]]:
        known = ", ".join(map(str, table)) or "none"
        told = f"no column {' or '.join(missing)}; its columns are {known}; --columns path=NAME says which it is"
        raise SslsimError(f"{where}: {told}")
    if table.empty:
        raise SslsimError(f"{where}: lists no utterance")
    table = pd.DataFrame({ours: table[name] for ours, name in names.items() if name}).astype(object).fillna("")
    rows = [dict(zip(table, map(str, values), strict=True)) for values in table.itertuples(index=False)]
    times = Counter(row["path"] for row in rows)
    for row in rows:  # of several stretches of a file, one without an offset begins with it
        if times[row["path"]] > 1 and row.get("duration") and row.get("offset", "nan") in ("", "nan"):
            row["offset"] = "0"
    for row in rows if not names["id"] else ():
        begin = f"-{row['offset']}" if times[row["path"]] > 1 and row.get("offset") else ""
        row["id"] = row["path"] and PurePath(row["path"]).with_suffix("").as_posix() + begin
    spans = pd.DataFrame(rows, dtype=object).reindex(columns=["offset", "duration"])
    spans = spans.apply(pd.to_numeric, errors="coerce").astype(float)
    calls = enumerate(zip(rows, spans.offset.tolist(), spans.sum(axis=1, skipna=False).tolist(), strict=True), 1)
    return [_checked(row, start, end, f"{where}: row {number}") for number, (row, start, end) in calls]


def _checked(row: dict[str, Any], start: float, end: float, where: str) -> dict[str, Any]:
    for column, value in row.items():
        if not is_text(value) or (not value and column in ("id", "path")):
            raise SslsimError(f"{where} has {f'a {column} with NUL or what is not UTF-8' if value else f'no {column}'}")
    offset, duration = row.pop("offset", ""), row.pop("duration", "")
    if offset and not 0 <= start < end < float("inf"):
        raise SslsimError(f"{where} has offset {offset!r} and duration {duration!r}; give both, in seconds")
    return row | ({"start": start, "end": end} if offset else {})


def read_table(path: Path) -> pd.DataFrame:
    """Read a table of text, every value as written: an id 007 must not become 7, nor a speaker "NA" nothing."""
    name, content = path.name.lower(), path.read_bytes()
    content = gzip.decompress(content) if name.endswith(".gz") else content
    if name.endswith(_LINES):
        lines = content.decode("utf-8-sig").split("\n")  # a text may hold what else counts as a line's end
        return pd.DataFrame([_object(n, line) for n, line in enumerate(lines, 1) if line.strip()], dtype=object)
    quoting = csv.QUOTE_MINIMAL if name.endswith(".csv") else csv.QUOTE_NONE  # a quote begins a text of Common Voice
    options: dict[str, Any] = {"dtype": str, "keep_default_na": False, "encoding": "utf-8-sig", "quoting": quoting}
    try:
        table = pd.read_csv(io.BytesIO(content), sep="," if name.endswith(".csv") else "\t", **options)
    except pd.errors.EmptyDataError:
        return pd.DataFrame()
    if not isinstance(table.index, pd.RangeIndex):  # pandas takes the first for names of the rows
        raise ValueError("its rows have more values than there are columns")
    if (broken := table.map(lambda value: "\n" in value).any(axis=1)).any():
        raise ValueError(f"a value of row {broken.idxmax() + 1} goes on over the next line; is a quote missing?")
    return table


def _object(number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"line {number} is not JSON: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"line {number} is not an object with id and path")
    return row


def _kaldi(folder: Path) -> pd.DataFrame:
    """Read wav.scp, and what there is of utt2spk, text and segments."""
    if (folder / "reco2file_and_channel").exists():
        raise ValueError("has reco2file_and_channel; channels are not read apart, write each to a file")
    sounds, speakers, texts, segments = map(_pairs, [folder / n for n in ("wav.scp", "utt2spk", "text", "segments")])
    rows = []
    for utterance, place in (segments or {sound: sound for sound in sounds}).items():
        recording, begin, last = [*place.split(), "", ""][:3] if segments else (place, "", "")
        if "|" in (path := sounds[recording]) or path.rpartition(":")[0].endswith(".ark"):
            raise ValueError(f"{recording!r} is no file but {path!r}, which is not run or unpacked; write it to a file")
        path = path if (folder / path).exists() else str(Path(path).absolute())  # counted from where the recipe ran
        rows.append((utterance, path, speakers.get(utterance), texts.get(utterance), begin, last))
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    start, end = (pd.to_numeric(table[name], errors="coerce") for name in ("offset", "duration"))
    return table.assign(duration=end - start)


def _pairs(file: Path) -> dict[str, str]:
    lines = file.read_text(encoding="utf-8-sig").split("\n") if file.is_file() else []
    pairs = [(*line.split(maxsplit=1), "")[:2] for line in lines if line.strip()]
    if twice := [name for name, times in Counter(name for name, _ in pairs).items() if times > 1]:
        raise ValueError(f"{file.name} has {twice[0]!r} twice")
    return {name: value.strip() for name, value in pairs}


def _lhotse(path: Path, table: pd.DataFrame) -> pd.DataFrame:
    """Read recordings, or the supervisions of recordings that lie in a file beside them."""
    beside = path.with_name(path.name.replace("supervisions", "recordings"))
    there = (read_table(beside) if "recording_id" in table else table).set_index("id")["sources"]
    rows = []
    for row in table.to_dict("records"):
        if "transforms" in row and row["transforms"] == row["transforms"] and row["transforms"]:
            raise ValueError(f"{row['id']!r} has transforms, which are not made; write their result to a file")
        (source,) = there[row.get("recording_id", row["id"])]
        channel, channels = row.get("channel", source["channels"]), source["channels"]
        if source["type"] != "file" or channels not in (channel, [channel]):
            told = f"a {source['type']}, channel {channel} of {channels}; of files alone all channels are read"
            raise ValueError(f"{row['id']!r} is {told}; write it to a file")
        rows.append({**row, "path": source["source"], "offset": row.get("start", "")})
    table = pd.DataFrame(rows, dtype=object)
    return table if "start" in table else table.drop(columns="duration")
