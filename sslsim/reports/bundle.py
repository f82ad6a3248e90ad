"""A reports folder as one file, to be sent and opened anywhere."""

from collections.abc import Iterator
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

from sslsim.errors import SslsimError
from sslsim.reports import record
from sslsim.resources import replacing


def bundle(out: Path, target: Path | None = None) -> Path:
    """Zip the pages of a run or a sweep with all that they link to, and return the file, by default beside the folder.

    Activations stay behind, an older zip is replaced. A folder without a report, or with a part of one, is an error.
    """
    out = out.resolve()
    files = list(dict.fromkeys(_files(out)))
    if missing := [file for file in files if not file.is_file()]:
        raise SslsimError(f"{missing[0]}, a part of the report, is missing; run it again with --out {out}")
    target = target or out.with_name(f"{out.name}.zip")
    with replacing(target) as part, ZipFile(part, "w", ZIP_DEFLATED) as zipped:
        for file in files:
            zipped.write(file, Path(out.name) / file.relative_to(out))
    return target


def _files(out: Path) -> Iterator[Path]:
    """Yield the files of a report, with those of all runs of a sweep."""
    runs = record.read(out / record.SWEEP).get("runs", {})
    run = record.read(out / "run.json")
    if not runs and not run:
        raise SslsimError(f"{out} holds no report of this version; name a folder that sslsim run has written")
    names = ["index.html", record.SWEEP if runs else "run.json", "study.toml"]
    yield from (out / name for name in names if name != "study.toml" or (out / name).is_file())
    for name in runs:
        yield from _files(out / name) if (out / name / "run.json").is_file() else ()
    for name, entry in run.get("notebooks", {}).items():
        pages = [f"{name}.html", f"{name}.ipynb"] if entry["page"] else []
        yield from (out / file for file in [*pages, *entry["files"]])
