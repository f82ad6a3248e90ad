"""What differs between two reports folders: what they were made from, their claims, their tables."""

import math
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sslsim.errors import SslsimError
from sslsim.reports import record
from sslsim.reports.jobs import FLAGS
from sslsim.resources import write_text

_LISTED = 6  # names in the summary of what runs were made from
_ROW = "row"  # the place of a row, where no columns tell rows apart
_EXPLAINS = ("code", "path", "version")  # may be the reason of a difference, and are none


def compare_runs(a: str | Path, b: str | Path, *, out: str | Path | None = None, tolerance: float = 1e-9) -> int:
    """Compare two reports folders, write a page, print a summary, and return 1 when they differ, or 0.

    Results, parameters, checkpoints and speech count, numbers from a difference of more than `tolerance`; versions,
    code and folders are shown. The page is `out`, or ``compare-A.html`` in `b`, with the name of the folder `a`. It is
    an SslsimError if a folder holds no report, a table cannot be read, or the tolerance is not a number from 0.
    """
    if not 0 <= tolerance < math.inf:
        raise SslsimError(f"tolerance is {tolerance}; give a number from 0")
    folders, runs = [Path(a).resolve(), Path(b).resolve()], []
    for folder in folders:
        if (folder / record.SWEEP).is_file():
            raise SslsimError(f"{folder} holds a sweep; name one of the runs in it")
        if not (run := record.read(folder / "run.json")):
            raise SslsimError(f"{folder} holds no run.json of this version; name a folder that sslsim run wrote")
        runs.append(run)
    name = re.sub("[^A-Za-z0-9]+", "-", folders[0].name).strip("-")
    target = Path(out).resolve() if out else folders[1] / f"compare-{name}.html"
    if target.is_dir():
        raise SslsimError(f"{target} is a folder; give a file for the page with --out")
    origins, claims = made_from(*runs), claims_that_differ(*runs, tolerance=tolerance)
    tables = _tables(folders, runs, tolerance)
    lines = _summary(origins, claims, tables)
    differ = any(row["counts"] for row in origins) or bool(claims) or any(tables.values())
    links = [os.path.relpath(folder / "index.html", target.parent) for folder in folders]
    facts = {"sides": zip(folders, links, runs, strict=True), "lines": lines, "differ": differ, "tolerance": tolerance}
    from sslsim.reports import page  # it takes seconds

    write_text(target, page.fill("compare.html.j2", **facts, made_from=origins, claims=claims, tables=tables))
    print("\n".join([*lines, str(target)]), flush=True)
    return int(differ)


def made_from(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what two runs, by run.json, were made from and differs: dicts of ``of, name, a, b, counts``.

    Folders, commit, code and versions do not count. None is what is not there; where a checkpoint lies is left out.
    """
    rows = [(*key, one, other) for key, one, other in _both(_ingredients(a), _ingredients(b)) if one != other]
    return [{"of": of, "name": name, "a": x, "b": y, "counts": of not in _EXPLAINS} for of, name, x, y in rows]


def claims_that_differ(a: Mapping[str, Any], b: Mapping[str, Any], *, tolerance: float = 0.0) -> list[dict[str, Any]]:
    """Return the claims of two runs, by run.json, that differ, those first of which more than the effect changed.

    Each is a dict of ``notebook, claim, measure, between, a, b`` (the claims, None: not there) and ``changes``: of
    ``only in A``, ``only in B``, ``verdict``, ``effect outside the interval``, ``effect``.
    """
    names = ("claim", "measure", "between")
    sides = [
        {(book, *(row[n] for n in names)): row for book, entry in run["notebooks"].items() for row in entry["claims"]}
        for run in (a, b)
    ]
    rows = []
    for key, one, other in _both(*sides):
        if changes := _changes(one, other, tolerance):
            rows.append(dict(zip(("notebook", *names), key, strict=True)) | {"a": one, "b": other, "changes": changes})
    return sorted(rows, key=lambda row: row["changes"] == ["effect"])


def compare_tables(
    a: pd.DataFrame, b: pd.DataFrame, keys: Sequence[str] = (), *, tolerance: float = 0.0
) -> dict[str, Any]:
    """Compare two tables row by row: by the columns `keys`, if these tell rows apart, or else by their place.

    The dict is empty when nothing differs by more than `tolerance`. Else it has ``keys``; ``rows``, how many are in
    both; ``alone``, rows of one alone, by its letter; ``missing``, columns of one alone; ``columns``, a dict each for
    columns that differ: ``name``, ``float``, ``moved`` (rows), ``largest`` (absolute difference; None for text,
    infinite where one number is missing), ``where``, ``a``, ``b``.
    """
    missing = {"A": [name for name in a if name not in b], "B": [name for name in b if name not in a]}
    keys = [key for key in keys if key in a and key in b]
    if not keys or a.duplicated(keys).any() or b.duplicated(keys).any():
        keys = [_ROW]
        a, b = (table.assign(**{_ROW: range(len(table))}) for table in (a, b))
    shared = [name for name in a if name in b]
    is_number = pd.api.types.is_any_real_numeric_dtype
    words = [name for name in shared if not (is_number(a[name]) and is_number(b[name]))]  # lists too, as text
    a, b = (t.assign(**{n: t[n].map(str, na_action="ignore").astype(object) for n in words}) for t in (a, b))
    both = a.merge(b, on=keys, how="outer", suffixes=("\0a", "\0b"), indicator="\0")
    sides = (("A", "left_only"), ("B", "right_only"))
    alone = {letter: [*map(_where, both.loc[both["\0"] == side, keys].to_dict("records"))] for letter, side in sides}
    both = both[both["\0"] == "both"].reset_index(drop=True)
    moved = [_moved(both, name, keys, name in words, tolerance) for name in shared if name not in keys]
    columns = [column for column in moved if column]
    differs = columns or any((*alone.values(), *missing.values()))
    facts = {"keys": keys, "rows": len(both), "alone": alone, "missing": missing, "columns": columns}
    return facts if differs else {}


def _both(a: Mapping[Any, Any], b: Mapping[Any, Any]) -> list[tuple[Any, Any, Any]]:
    """Return each key of either side with its two values; None is what is not there."""
    return [(key, a.get(key), b.get(key)) for key in {**a, **b}]


def _ingredients(run: Mapping[str, Any]) -> dict[tuple[str, str], Any]:
    """Return what a run was made from, by kind and name."""
    found: dict[tuple[str, str], Any] = {("code", name): run[name] for name in ("commit", "code")}
    found |= {("version", name): version for name, version in run["versions"].items()}
    found |= {("path" if name in ("lineup", "corpus") else "study", name): v for name, v in run["study"].items()}
    found |= {("speech", name): value for name, value in run["corpus"].items()}
    for checkpoint in run["checkpoints"]:
        facts = {key: value for key, value in checkpoint.items() if key not in ("name", "source")}
        found |= {("checkpoint", f"{checkpoint['name']}: {key}"): value for key, value in facts.items()}
    for name, entry in run["notebooks"].items():
        found["notebook", name] = f"{entry['status']} {entry['error']}".strip()
        found["code", f"notebook {name}"] = entry["notebook"]["hash"]
        rows = [row for row in entry["parameters"] if row["name"] not in FLAGS]
        found |= {("parameter", f"{name}: {row['name']}"): row["value"] for row in rows}
    return found


def _changes(a: dict[str, Any] | None, b: dict[str, Any] | None, tolerance: float) -> list[str]:
    if a is None or b is None:
        return ["only in A" if a else "only in B"]
    changes = ["verdict"] if a["verdict"] != b["verdict"] else []
    names = ("effect", "ci_low", "ci_high")
    numbers = [[math.nan if side[name] is None else side[name] for name in names] for side in (a, b)]
    (one, *of_one), (other, *of_other) = numbers
    if any(effect < low or effect > high for effect, (low, high) in ((one, of_other), (other, of_one))):
        return [*changes, "effect outside the interval"]
    same = a["effect"] == b["effect"] or abs(one - other) <= tolerance
    return changes if same else [*changes, "effect"]


def _tables(folders: Sequence[Path], runs: Sequence[Mapping[str, Any]], tolerance: float) -> dict[str, dict[str, Any]]:
    """Compare every table that both runs name, by name: empty where nothing differs, or the letter that has it."""
    sides = [
        {f"{book}-{name}": keys for book, entry in run["notebooks"].items() for name, keys in entry["keys"].items()}
        for run in runs
    ]
    found: dict[str, dict[str, Any]] = {}
    for name, one, other in sorted(_both(*sides)):
        if one is None or other is None:
            found[name] = {"only": "B" if one is None else "A"}
            continue
        a, b = (_table(folder / "tables" / f"{name}.parquet") for folder in folders)
        keys = list(dict.fromkeys([*one, *other])) if one and other else []
        found[name] = compare_tables(a, b, keys, tolerance=tolerance)
    return found


def _table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise SslsimError(f"{path} cannot be read as a table: {error}") from None


def _moved(both: pd.DataFrame, name: str, keys: list[str], words: bool, tolerance: float) -> dict[str, Any] | None:
    """Return how far a column moved and where furthest, or nothing when no row did."""
    a, b = both[f"{name}\0a"], both[f"{name}\0b"]
    far = pd.Series(np.inf, both.index) if words else (a.astype(float) - b.astype(float)).abs().fillna(np.inf)
    far = far.mask((a == b).fillna(False).astype(bool) | (a.isna() & b.isna()), 0.0)
    if not (far > tolerance).any():
        return None
    at = far.idxmax()
    facts = {"name": name, "float": any(pd.api.types.is_float_dtype(each) for each in (a, b))}
    facts |= {"moved": int((far > tolerance).sum()), "largest": None if words else float(far[at])}
    return facts | {"where": _where(both.loc[at, keys]), "a": a[at], "b": b[at]}


def _where(row: Mapping[Any, Any] | pd.Series) -> str:
    return ", ".join(f"{name} {value}" for name, value in row.items())


def _summary(origins: Sequence[Any], claims: Sequence[Any], tables: Mapping[str, Any]) -> list[str]:
    """Return what differs in three lines, or that nothing does."""
    names = [f"{row['of']} {row['name']}" for row in origins]
    if len(names) > _LISTED:
        names[_LISTED:] = [f"{len(names) - _LISTED} more"]
    changes = Counter(change for row in claims for change in row["changes"])
    differ = {name: each for name, each in tables.items() if each}
    moved = [
        (column["largest"], f"{name}, {column['name']}, by {column['largest']:.3g} at {column['where']}")
        for name, each in differ.items()
        for column in each.get("columns", [])
        if column["float"] and math.isfinite(column["largest"] or math.inf)
    ]
    furthest = f"; furthest {max(moved)[1]}" if moved else ""
    return [
        f"made from: {', '.join(names) or 'the same'}",
        f"claims: {', '.join(f'{change} ({n})' for change, n in changes.items()) or 'the same'}",
        f"tables: {len(differ)} of {len(tables)} differ{furthest}",
    ]
