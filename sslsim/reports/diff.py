"""What differs between two reports folders: what they were made from, their verdicts, their tables."""

from __future__ import annotations

import math
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sslsim.errors import SslsimError
from sslsim.reports import folder as record
from sslsim.reports import page as render
from sslsim.reports.jobs import FLAGS
from sslsim.resources import write_text

_EXAMPLES = 5  # rows shown of those that only one table has
_LISTED = 6  # names in the summary of what runs were made from
_REPEAT = "repeat"  # numbers rows that no column tells apart
_EXPLAINS = ("code", "path", "version")  # may be the reason of a difference, and are none
_Row = dict[str, Any]


def compare_runs(a: str | Path, b: str | Path, *, out: str | Path | None = None, tolerance: float = 1e-9) -> int:
    """Compare two reports folders, write a page and print a summary.

    Parameters
    ----------
    a, b : path
        Reports folders.
    out : path, optional
        The page: ``compare-A.html`` in `b`, with the name of the folder `a`, unless given.
    tolerance : float
        The largest absolute difference of two numbers that does not count.

    Returns
    -------
    int
        0, or 1 when results, parameters, checkpoints or speech differ.

    Raises
    ------
    SslsimError
        A folder holds no report, a table cannot be read, or the tolerance is not a number from 0.
    """
    if not 0 <= tolerance < math.inf:
        raise SslsimError(f"tolerance is {tolerance}; give a number from 0")
    folders = [Path(a).resolve(), Path(b).resolve()]
    runs = [_run(folder) for folder in folders]
    name = re.sub("[^A-Za-z0-9]+", "-", folders[0].name).strip("-")
    target = Path(out).resolve() if out else folders[1] / f"compare-{name}.html"
    if target.is_dir():
        raise SslsimError(f"{target} is a folder; give a file for the page with --out")
    found: dict[str, Any] = {
        "made_from": made_from(*runs),
        "verdicts": verdicts(*runs, tolerance=tolerance),
        "tables": tables(*folders, tolerance=tolerance),
    }
    sides = [
        {"path": str(folder), "href": os.path.relpath(folder / "index.html", target.parent), "run": run}
        for folder, run in zip(folders, runs, strict=True)
    ]
    lines = summary(found)
    differ = (
        any(row["counts"] for row in found["made_from"]) or bool(found["verdicts"]) or any(found["tables"].values())
    )
    facts = {"sides": sides, "lines": lines, "differ": differ, "tolerance": tolerance, "examples": _EXAMPLES}
    write_text(target, render.fill("compare.html.j2", **facts, **found))
    print("\n".join([*lines, str(target)]), flush=True)
    return int(differ)


def made_from(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[_Row]:
    """Return what two runs were made from and differs.

    Parameters
    ----------
    a, b : mapping
        Contents of run.json.

    Returns
    -------
    list of dict
        ``of``, ``name``, ``a``, ``b`` (None: not there) and ``counts``: whether it makes the runs different ones.
        Folders, commit, code and versions do not, nor does the place that a checkpoint of the same content lies at.
    """
    sides = [_ingredients(run) for run in (a, b)]
    return [
        {"of": key[0], "name": key[1], "a": one, "b": other, "counts": key[0] not in _EXPLAINS}
        for key in dict.fromkeys([*sides[0], *sides[1]])
        if (one := sides[0].get(key)) != (other := sides[1].get(key))
    ]


def verdicts(a: Mapping[str, Any], b: Mapping[str, Any], *, tolerance: float = 0.0) -> list[_Row]:
    """Return the claims that differ: holds or not, the effect, or whether there is such a claim.

    Parameters
    ----------
    a, b : mapping
        Contents of run.json.
    tolerance : float
        The largest difference of two effects that does not count.

    Returns
    -------
    list of dict
        ``notebook``, ``claim``, ``measure``, ``between``, ``a`` and ``b`` (the claims, None: not there) and
        ``changes``: of ``only in A``, ``only in B``, ``holds``, ``effect outside the interval``, ``effect``.
    """
    sides = [_claims(run) for run in (a, b)]
    rows = []
    for key in dict.fromkeys([*sides[0], *sides[1]]):
        one, other = (side.get(key) for side in sides)
        if changes := _changes(one, other, tolerance):
            named = dict(zip(("notebook", "claim", "measure", "between"), key, strict=True))
            rows.append({**named, "a": one, "b": other, "changes": changes})
    return sorted(rows, key=lambda row: row["changes"] == ["effect"])  # what matters most first


def tables(a: Path, b: Path, *, tolerance: float = 0.0) -> dict[str, dict[str, Any]]:
    """Compare every table that two reports folders have.

    Parameters
    ----------
    a, b : Path
        Reports folders.
    tolerance : float
        As for `compare_tables`.

    Returns
    -------
    dict
        By name: what `compare_tables` returns, empty where nothing differs, or ``only`` with the folder's letter.
    """
    sides = [_files(folder) for folder in (a, b)]
    found: dict[str, dict[str, Any]] = {}
    for name in sorted({*sides[0], *sides[1]}):
        if name in sides[0] and name in sides[1]:
            kind = ".parquet" if all(".parquet" in side[name] for side in sides) else ".csv"
            found[name] = compare_tables(*(_table(side[name], kind) for side in sides), tolerance=tolerance)
        else:
            found[name] = {"only": "A" if name in sides[0] else "B"}
    return found


def compare_tables(a: pd.DataFrame, b: pd.DataFrame, *, tolerance: float = 0.0) -> dict[str, Any]:
    """Compare two tables row by row, whatever their order.

    Parameters
    ----------
    a, b : DataFrame
        Rows go by the first columns of text and whole numbers that tell them all apart, as in ``measure, model_x,
        layer_x, model_y, layer_y``; where those do not, by columns of floats too that have the same values in both,
        as ``depth``; where nothing does, repeats are numbered in their order.
    tolerance : float
        The largest absolute difference of two numbers that does not count.

    Returns
    -------
    dict
        Empty when nothing differs. Else ``keys``, the names of the columns that rows go by; ``rows``, how many are in
        both; ``only_a``, ``only_b``, rows of one alone, a count and examples; ``missing``, columns of one alone;
        ``columns``, a dict each for columns that differ: ``name``, ``float``, ``moved`` (rows), ``largest`` (absolute
        difference; None for text, infinite where one number is missing), ``where``, ``a``, ``b``.
    """
    a, b = _alike(a, b)
    keys = _keys(a, b)
    if not keys or a.duplicated(keys).any() or b.duplicated(keys).any():
        a, b = _numbered(a, keys), _numbered(b, keys)
        keys = [*keys, _REPEAT]
    both = a.merge(b, on=keys, how="outer", suffixes=("\0a", "\0b"), indicator="\0")
    one = {side: both.loc[both["\0"] == f"{name}_only", keys] for side, name in (("a", "left"), ("b", "right"))}
    both = both[both["\0"] == "both"].reset_index(drop=True)
    shared = [name for name in a.columns if name in b and name not in keys]
    columns = [found for name in shared if (found := _column(both, name, keys, tolerance))]
    missing = {"a": [name for name in a if name not in b], "b": [name for name in b if name not in a]}
    if not columns and not any(map(len, (*one.values(), *missing.values()))):
        return {}
    only = {f"only_{side}": {"count": len(rows), "examples": _examples(rows)} for side, rows in one.items()}
    return {"keys": keys, "rows": len(both), **only, "missing": missing, "columns": columns}


def summary(found: Mapping[str, Any]) -> list[str]:
    """Return what differs in three lines, or that nothing does."""
    names = [f"{row['of']} {row['name']}" for row in found["made_from"]]
    more = [f"{len(names) - _LISTED} more"] if len(names) > _LISTED else []
    changes = Counter(change for row in found["verdicts"] for change in row["changes"])
    counted = [f"{change} ({n})" for change, n in changes.items()]
    differ = {name: each for name, each in found["tables"].items() if each}
    moved = [
        (column["largest"], f"{name}, {column['name']}, by {column['largest']:.3g} at {column['where']}")
        for name, each in differ.items()
        for column in each.get("columns", [])
        if column["float"] and math.isfinite(column["largest"] or math.inf)
    ]
    furthest = f"; furthest {max(moved)[1]}" if moved else ""
    return [
        f"made from: {', '.join([*names[:_LISTED], *more]) or 'the same'}",
        f"verdicts: {', '.join(counted) or 'the same'}",
        f"tables: {len(differ)} of {len(found['tables'])} differ{furthest}",
    ]


def _run(folder: Path) -> dict[str, Any]:
    if (folder / record.SWEEP).is_file():
        raise SslsimError(f"{folder} holds a sweep; name one of the runs in it")
    run = record.read(folder / "run.json")
    if not run:
        raise SslsimError(f"{folder} holds no run.json of this version; name a folder that sslsim run wrote")
    return run


def _ingredients(run: Mapping[str, Any]) -> dict[tuple[str, str], Any]:
    """Return what a run was made from, by kind and name."""
    found: dict[tuple[str, str], Any] = {("code", "commit"): run["commit"], ("code", "hash"): run.get("code")}
    found |= {("version", name): version for name, version in run["versions"].items()}
    found |= {("path", name): run["settings"].get(name) for name in ("lineup", "corpus")}
    found |= {("speech", name): value for name, value in run["corpus"].items()}
    for checkpoint in run["checkpoints"]:
        facts = {key: value for key, value in checkpoint.items() if key not in ("name", "source")}
        found |= {("checkpoint", f"{checkpoint['name']}: {key}"): value for key, value in facts.items()}
    for name, entry in run["notebooks"].items():
        found["notebook", name] = f"{entry['status']} {entry['error']}".strip()
        rows = [row for row in entry["parameters"] if row["name"] not in FLAGS]
        found |= {("parameter", f"{name}: {row['name']}"): row["value"] for row in rows}
    return found


def _claims(run: Mapping[str, Any]) -> dict[tuple[str, str, str, str], _Row]:
    return {
        (name, claim["claim"], claim["measure"], claim["between"]): claim
        for name, entry in run["notebooks"].items()
        for claim in entry.get("verdict", [])  # an entry of an earlier version has none
    }


def _changes(a: _Row | None, b: _Row | None, tolerance: float) -> list[str]:
    if a is None or b is None:
        return ["only in A" if a else "only in B"]
    changes = ["holds"] if a["holds"] != b["holds"] else []
    if _outside(a["effect"], b) or _outside(b["effect"], a):
        return [*changes, "effect outside the interval"]
    pair = [side["effect"] for side in (a, b)]
    same = pair[0] == pair[1] if None in pair else abs(pair[0] - pair[1]) <= tolerance
    return changes if same else [*changes, "effect"]


def _outside(effect: float | None, other: _Row) -> bool:
    low, high = other["ci_low"], other["ci_high"]
    return None not in (effect, low, high) and not low <= effect <= high


def _files(folder: Path) -> dict[str, dict[str, Path]]:
    """Return the tables of a reports folder, by name and suffix."""
    found: dict[str, dict[str, Path]] = {}
    for path in sorted((folder / "tables").glob("[!.]*")):
        if path.suffix in (".csv", ".parquet"):
            found.setdefault(path.stem, {})[path.suffix] = path
    return found


def _table(files: Mapping[str, Path], kind: str) -> pd.DataFrame:
    path = files.get(kind) or next(iter(files.values()))
    try:
        return pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path)
    except (OSError, ValueError) as error:
        raise SslsimError(f"{path} cannot be read as a table: {error}") from None


def _is_float(*columns: pd.Series) -> bool:
    return any(pd.api.types.is_float_dtype(column.dtype) for column in columns)


def _is_number(*columns: pd.Series) -> bool:
    return all(pd.api.types.is_numeric_dtype(c.dtype) and not pd.api.types.is_bool_dtype(c.dtype) for c in columns)


def _alike(a: pd.DataFrame, b: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return both with numbers as they are and all else as text, so that kinds do not matter and lists can be told."""
    shared = [name for name in a.columns if name in b and not _is_number(a[name], b[name])]

    def text(table: pd.DataFrame) -> pd.DataFrame:
        words = {name: [None if _is_none(value) else str(value) for value in table[name]] for name in shared}
        return table.assign(**{name: pd.Series(each, table.index, dtype=object) for name, each in words.items()})

    return text(a), text(b)


def _is_none(value: Any) -> bool:
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def _keys(a: pd.DataFrame, b: pd.DataFrame) -> list[str]:
    """Return the first columns that tell all rows of both apart, or all that may."""
    shared = [name for name in a.columns if name in b]
    names = [name for name in shared if not _is_float(a[name], b[name])]
    for name in [n for n in reversed(names) if _is_number(a[n], b[n]) and set(a[n]) != set(b[n])]:
        rest = [n for n in names if n != name]  # a result, if the others tell rows apart
        if rest and not any(table.duplicated(rest).any() for table in (a, b)):
            names = rest
    names += [name for name in shared if _is_float(a[name], b[name]) and set(a[name]) == set(b[name])]
    ends = range(1, len(names))
    enough = (end for end in ends if not any(table.duplicated(names[:end]).any() for table in (a, b)))
    return names[: next(enough, len(names))]


def _numbered(table: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    repeat = table.groupby(names, dropna=False).cumcount() if names else np.arange(len(table))
    return table.assign(**{_REPEAT: repeat})


def _column(both: pd.DataFrame, name: str, keys: list[str], tolerance: float) -> _Row | None:
    """Return how far a column moved and where furthest, or nothing when no row did."""
    a, b = both[f"{name}\0a"], both[f"{name}\0b"]
    numbers = _is_number(a, b)
    same = (a == b) | (a.isna() & b.isna())
    distance = (a.astype(float) - b.astype(float)).abs().fillna(np.inf) if numbers else pd.Series(np.inf, both.index)
    moved = ~same.astype(bool) & (distance > tolerance)
    if not moved.any():
        return None
    at = distance.where(moved, -1.0).idxmax()
    where = _where(both.loc[at, keys])
    largest = float(distance[at]) if numbers else None
    facts = {"name": name, "float": _is_float(a, b), "moved": int(moved.sum()), "largest": largest}
    return {**facts, "where": where, "a": a[at], "b": b[at]}


def _where(row: pd.Series) -> str:
    return ", ".join(f"{name} {value}" for name, value in row.items())


def _examples(rows: pd.DataFrame) -> list[str]:
    return [_where(row) for _, row in rows.head(_EXAMPLES).iterrows()]
