from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import bs4
import pytest
from check_reports import links
from toys import RUN, changed_run, write_run

from sslsim import cli
from sslsim.errors import SslsimError
from sslsim.reports import page as render
from sslsim.reports import record
from sslsim.reports.bundle import bundle

FILES = ["index.html", "layers.html", "layers.ipynb", "run.json", "tables/layers-pairs.csv"]
FILES += ["tables/layers-pairs.parquet"]


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Make a reports folder whose index and page have all their links, beside activations and what is not of it."""
    run = changed_run()
    run["notebooks"]["layers"]["files"] = FILES[-2:]
    folder = write_run(tmp_path / "reports", run)
    text = render.fill("index.html.j2", run=run, folder=folder, sweep=False)
    (folder / "index.html").write_text(text, encoding="utf-8")
    for name in ("layers.html", "layers.ipynb", "private.txt", "store/w2v2/shard", "tables/old.csv"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    return folder


def test_a_zip_has_what_pages_link_to_and_opens_anywhere(out: Path, tmp_path: Path, capsys: Any) -> None:
    assert cli.main(["bundle", str(out)]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'reports.zip'}: ")
    (out / "study.toml").write_text("seed = 0")
    with ZipFile(bundle(out, tmp_path / "x" / "y.zip")) as zipped:
        assert sorted(zipped.namelist()) == sorted(f"reports/{name}" for name in [*FILES, "study.toml"])
        zipped.extractall(tmp_path / "elsewhere")
    shutil.rmtree(out)
    there = tmp_path / "elsewhere" / "reports"
    soup = bs4.BeautifulSoup((there / "index.html").read_text(encoding="utf-8"), "html.parser")
    assert soup.select("a[href='layers.html']")
    assert list(links(soup, there)) == []


def test_a_zip_of_a_sweep_has_all_its_runs(out: Path, tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    shutil.copytree(out, sweep / "seed-0")
    row = {"status": "ok", "seconds": 1.0, "values": {}, "notebooks": {}}
    content = {"format": record.FORMAT, "runs": {"seed-0": row, "seed-1": row | {"status": "not run"}}}
    record.write(sweep / record.SWEEP, content)
    (sweep / "index.html").write_text("x")
    with ZipFile(bundle(sweep)) as zipped:
        names = {*zipped.namelist()}
    assert names == {f"sweep/seed-0/{name}" for name in FILES} | {"sweep/index.html", f"sweep/{record.SWEEP}"}


def test_what_is_no_whole_report_leaves_no_zip(out: Path, tmp_path: Path) -> None:
    with pytest.raises(SslsimError, match="holds no report of this version; name a folder that sslsim run has written"):
        bundle(tmp_path)
    (out / "layers.html").unlink()
    with pytest.raises(SslsimError, match="layers.html, a part of the report, is missing; run it again with --out"):
        bundle(out)
    (out / "run.json").write_text(json.dumps(RUN | {"format": record.FORMAT - 1}))
    with pytest.raises(SslsimError, match="holds no report"):
        bundle(out)
    assert [path.name for path in tmp_path.iterdir()] == ["reports"]
