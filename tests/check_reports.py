"""Check a finished reports folder: ``python tests/check_reports.py reports [--browser SHOTS]``.

Prints what it checked; on the first group of problems prints each and exits 1.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import itertools
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import bs4
import numpy as np
import pandas as pd

SIDES = ["model_x", "layer_x", "model_y", "layer_y"]
PROOF = Path(__file__).parents[1] / "data/proof.csv"
NO_ALT = "No description has been provided for this image"


def check_run(out: Path) -> Iterator[str]:
    """run.json says that every notebook went through, and names files that exist."""
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    if run["status"] != "ok":
        yield f"run.json: status is {run['status']}"
    if not run["notebooks"]:
        yield "run.json: no notebooks"
    for name, entry in run["notebooks"].items():
        if entry["status"] != "ok":
            yield f"{name}: {entry['status']}: {entry['error']}"
        wanted = [f"{name}.html", f"{name}.ipynb", *entry["files"]]
        yield from (f"{name}: {file} is missing" for file in wanted if not (out / file).is_file())
        if not any(file.startswith("tables/") for file in entry["files"]):
            yield f"{name}: left no table"
        if not any(file.startswith("figures/") for file in entry["files"]):
            yield f"{name}: left no figure"


def check_pages(out: Path) -> Iterator[str]:
    """Every page stands alone, describes its pictures, renders its formulas, and its links lead somewhere."""
    names = list(json.loads((out / "run.json").read_text(encoding="utf-8"))["notebooks"])
    for page in (out / f"{name}.html" for name in ["index", *names]):
        if not page.is_file():
            yield f"{page.name} is missing"
            continue
        soup = bs4.BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
        yield from (f"{page.name}: {problem}" for problem in [*outside(soup), *content(soup), *links(soup, out)])


def outside(soup: bs4.BeautifulSoup) -> Iterator[str]:
    """Find what a browser would fetch: anything but data, in attributes or in style sheets."""
    for element in soup.find_all(["link", "script", "img", "iframe", "source", "video", "audio", "object", "embed"]):
        for attribute in ("src", "href", "srcset", "data", "poster"):
            value = str(element.get(attribute) or "")
            if value and not value.startswith("data:"):
                yield f"<{element.name} {attribute}={value[:80]!r}> is not embedded"
    styles = [style.get_text() for style in soup.find_all("style")]
    styles += [str(element["style"]) for element in soup.find_all(style=True)]
    for style in styles:
        yield from (
            f"style sheet fetches {url[:80]}" for url in re.findall(r"@import[^;]*|url\((?!['\"]?data:)[^)]*\)", style)
        )
    policy = str(soup.select_one("meta[http-equiv=Content-Security-Policy]") or "")
    for script in soup.find_all("script"):
        text = str(script.string or "")
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        if f"script-src 'sha256-{digest}'" not in policy:
            yield f"script that the page's policy does not name: {text[:60]!r}"


def content(soup: bs4.BeautifulSoup) -> Iterator[str]:
    """Alt texts, formulas, one title."""
    for image in soup.find_all("img"):
        decorative = image.find_parent(attrs={"aria-hidden": "true"})
        if not decorative and (not str(image.get("alt") or "").strip() or image["alt"] == NO_ALT):
            yield "a picture has no alt text"
    yield from (f"TeX was not rendered: {code.get_text()}" for code in soup.select("code.tex"))
    if len(soup.find_all("h1")) != 1:
        yield f"{len(soup.find_all('h1'))} H1 headings"
    ids = [element["id"] for element in soup.find_all(id=True)]
    yield from (f"id {each!r} is used twice" for each in sorted({i for i in ids if ids.count(i) > 1}))


def links(soup: bs4.BeautifulSoup, out: Path) -> Iterator[str]:
    """Relative links lead to files, links within the page to ids."""
    ids = {element["id"] for element in soup.find_all(id=True)}
    for anchor in soup.find_all("a", href=True):
        target, _, fragment = str(anchor["href"]).partition("#")
        if re.match(r"[a-z]+:", target):
            continue
        if target and not (out / unquote(target)).exists():
            yield f"link to {target}, which is not there"
        if not target and fragment not in ids:
            yield f"link to #{fragment}, which is not there"


def check_claims(out: Path) -> Iterator[str]:
    """Each page and the index show what the table of claims says."""
    run = json.loads((out / "run.json").read_text(encoding="utf-8"))
    index = bs4.BeautifulSoup((out / "index.html").read_text(encoding="utf-8"), "html.parser")
    for name, entry in run["notebooks"].items():
        file = out / "tables" / f"{name}-claims.csv"
        if not file.is_file():
            yield f"{name}: no claims"
            continue
        table = pd.read_csv(file)
        wanted = sorted(f"{row.verdict} {row.effect:.3f}" for row in table.itertuples())
        page = bs4.BeautifulSoup((out / f"{name}.html").read_text(encoding="utf-8"), "html.parser")
        for where, part in ((f"{name}.html", page), ("index.html", index.find(id=name))):
            cells = part.select("table.claims td") if part else []
            texts = sorted(
                " ".join(re.split(r"(?<=\.\d{3}) \(", cell.get_text(" "))[0].split())
                for cell in cells
                if cell.get_text()
            )
            if texts != wanted:
                yield f"{where}: claims of {name} are {texts}, its table says {wanted}"
            if not entry["answer"] or not part or entry["answer"] not in " ".join(part.get_text(" ").split()):
                yield f"{where}: the answer of {name} is not there"
        known = table[["effect", "ci_low", "ci_high"]].to_numpy().ravel().tolist()
        known += said_of(out / "tables", name)
        words = {text for number in known for text in (f"{number:z.2f}", f"{100 * number:z.1f}")}
        words |= {f"{100 * number:z.0f} %" for number in known} | {"2.0"}  # of wav2vec 2.0
        said = re.sub(r"(\d) to (\d+ %)", r"\1 % to \2", entry["answer"])
        if odd := set(re.findall(r"-?\d+\.\d+|(?<![\d.])\d+ %", said)) - words:
            yield f"{name}: its answer says {sorted(odd)}, its tables do not"
        if len(entry["claims"]) != len(table):
            yield f"run.json: {len(entry['claims'])} claims of {name}, its table has {len(table)}"


def said_of(tables: Path, name: str) -> list[float]:
    """Return the numbers of other tables than the claims that the answer of a page may say."""
    there = {path.stem.removeprefix(f"{name}-"): pd.read_csv(path) for path in tables.glob(f"{name}-*.csv")}
    known: list[float] = []
    if name == "neurons":
        known += there["along-depth"][["value", "depth"]].to_numpy().ravel().tolist()
    if name == "layers":
        depths = there["best-partner-depths"]
        by = depths.assign(n=depths.same_depth * depths.searches).groupby("measure")[["n", "searches"]].sum()
        known += (by.n / by.searches).tolist()
    if "profile" in there:
        known += there["profile"].groupby("model").entropy.mean().tolist()
    if name == "finetuning":
        known += there["by-layer"].value.tolist()
        if "entropy" in there:
            pairs = there["by-layer"].drop_duplicates("finetuned")
            entropy = there["entropy"].set_index("model").entropy
            known += (pairs.finetuned.map(entropy) - pairs.pretrained.map(entropy)).tolist()
    return known


def check_probe(out: Path) -> Iterator[str]:
    """Hold the ranks of the embedded models by what layers tell of phones against those of their phone probe."""
    file = out / "tables/contents-held.csv"
    if file.is_file():
        held = pd.read_csv(file).query("given == 'phone' and share == 'of the given'").groupby("model").value.max()
        proof = pd.read_csv(PROOF).query("measure == 'phone_probe'").groupby("model").value.max()
        both = pd.concat([held, proof], axis=1, keys=["held", "probe"]).dropna()
        if len(both) == 11 and both.corr("spearman").iloc[0, 1] < 0.85:
            yield f"contents: phones held and the phone probe rank the models differently:\n{both}"


def check_tables(out: Path) -> Iterator[str]:
    """Each CSV equals its Parquet twin, has no NaN among its values, and a grid is complete; what controls say fits."""
    tables = sorted((out / "tables").glob("*.csv"))
    if not tables:
        yield "no tables"
    for path in tables:
        twin = path.with_suffix(".parquet")
        if not twin.is_file():
            yield f"{path.name}: {twin.name} is missing"
            continue
        frame = pd.read_parquet(twin)
        yield from (
            f"{path.name}: {problem}"
            for problem in [*same(pd.read_csv(path), frame), *values(frame), *grid(frame), *evidence(frame)]
        )


def same(csv: pd.DataFrame, parquet: pd.DataFrame) -> Iterator[str]:
    """Compare: the CSV brings back the numbers of the Parquet file, digit for digit."""
    if list(csv.columns) != list(parquet.columns) or len(csv) != len(parquet):
        yield f"CSV has {csv.shape} rows and columns, Parquet {parquet.shape}"
        return
    for column in parquet.select_dtypes("float"):
        if not np.array_equal(csv[column].astype(parquet[column].dtype), parquet[column], equal_nan=True):
            yield f"column {column} differs between CSV and Parquet"


def values(frame: pd.DataFrame) -> Iterator[str]:
    """No NaN and no infinity in a column called value."""
    if "value" in frame and not np.isfinite(frame["value"].astype(float)).all():
        yield f"{int((~np.isfinite(frame['value'].astype(float))).sum())} values are not finite"


def grid(frame: pd.DataFrame) -> Iterator[str]:
    """All layers of one model with all of the other, in both directions; 1 with itself.

    For every two models where models are compared with themselves, else for each pair that is there at all.
    """
    if not {*SIDES, "value"} <= set(frame.columns) or {"head_x", "neuron_x", "chance"} & set(frame.columns):
        return
    for label, part in frame.groupby("measure"):
        layers_there = {state for s in "xy" for state in zip(part[f"model_{s}"], part[f"layer_{s}"], strict=True)}
        layers = pd.Series([model for model, _ in layers_there]).value_counts()
        found = part.drop_duplicates(SIDES).groupby(["model_x", "model_y"]).size()
        pairs = [*itertools.product(layers.index, repeat=2)] if any(x == y for x, y in found.index) else found.index
        wanted = {(x, y): layers[x] * layers[y] for pair in pairs for x, y in (pair, pair[::-1])}
        if found.to_dict() != wanted or len(part) != sum(wanted.values()):
            yield f"{label}: {len(part)} rows, {found.sum()} different pairs, but {sum(wanted.values())} are complete"
        own = part[(part["model_x"] == part["model_y"]) & (part["layer_x"] == part["layer_y"])]["value"]
        if not (own - 1).abs().le(1e-6).all():
            yield f"{label}: the diagonal is off 1 by {(own - 1).abs().max():.3g}"


def evidence(frame: pd.DataFrame) -> Iterator[str]:
    """Compare values with their intervals; p is a probability above 0, and a claim has one of the words."""
    value = "value" if "value" in frame else "effect"
    if {value, "ci_low", "ci_high"} <= set(frame.columns):
        some = frame.dropna(subset=[value, "ci_low", "ci_high"])
        outside = (some[value] < some.ci_low - 1e-9) | (some[value] > some.ci_high + 1e-9)
        if some.empty or outside.any():
            yield f"{int(outside.sum())} of {len(some)} values lie outside their interval"
    for column in {"p", "p_rotation"} & set(frame.columns):
        p = frame[column].dropna()
        ranked = column == "p" or "neuron_x" not in frame  # of a neuron it is by a formula, and may be 0
        if p.empty or not p.between(0, 1, inclusive="right" if ranked else "both").all():
            yield f"{column} is not a probability{' above 0' if ranked else ''} everywhere"
    if "p_t" in frame:  # 0 where a score is far from mismatches that hardly vary; no chance, no p: a map is grey there
        if not frame.p_t.dropna().between(0, 1).all():
            yield "p_t is not a probability everywhere"
        tested = frame.p_t.notna()
        if not tested.any() or (tested & (frame.chance.isna() | frame.mismatches.eq(0))).any():
            yield f"p_t of {int(tested.sum())} pairs, of which some, or none, have mismatches"
    if "verdict" in frame:
        words = {word for word in frame.verdict if not word.startswith("not tested (")}
        if odd := words - {"none", "small", "moderate", "large", "opposite", "not told from chance"}:
            yield f"verdicts are {sorted(odd)}"


def check_figures(out: Path) -> Iterator[str]:
    """Each figure is there as PNG and as SVG."""
    figures = {path.relative_to(out).with_suffix("") for path in (out / "figures").glob("*.*")}
    if not figures:
        yield "no figures"
    for figure in sorted(figures):
        for suffix, start in ((".png", b"\x89PNG"), (".svg", b"<?xml")):
            path = out / f"{figure}{suffix}"
            if not path.is_file() or not path.read_bytes().startswith(start):
                yield f"{figure}{suffix} is missing or broken"


def main() -> int:
    """Run the checks and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "--browser", type=Path, metavar="SHOTS", help="open each page in Chromium; shots and PDFs go here"
    )
    arguments = parser.parse_args()
    checks = [check_run, check_pages, check_tables, check_figures, check_claims, check_probe]
    problems = [problem for check in checks for problem in check(arguments.out)]
    if arguments.browser:
        from browser import check_browser

        problems += check_browser(sorted(arguments.out.glob("*.html")), arguments.browser)
    for problem in problems:
        print(f"check_reports: {problem}", file=sys.stderr)
    tables = len(list((arguments.out / "tables").glob("*.csv")))
    pages = len(list(arguments.out.glob("*.html")))
    print(f"{arguments.out}: {pages} pages, {tables} tables, {len(problems)} problems")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
