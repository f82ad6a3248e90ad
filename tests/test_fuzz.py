"""Odd values for the whole of the API and of the command line: each ends in a result, or in one line that says why."""

from __future__ import annotations

import json
import os
import re
import warnings
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import torch
from conftest import tone
from toys import GOOD, RUN, write_notebook

import sslsim
from sslsim import cli
from sslsim.errors import SslsimError
from sslsim.reports import runner
from sslsim.speech.index import index_of

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((60, 4)), RNG.standard_normal((60, 5))
MAPS = torch.rand(2, 6, 9, generator=torch.Generator().manual_seed(0)).softmax(2).numpy()
NUMBERS: dict[str, Callable[[np.ndarray], Any]] = {  # each holds the same numbers
    "list": lambda x: x.tolist(),
    "fortran": np.asfortranarray,
    "negative strides": lambda x: x[::-1].copy()[::-1],
    "big-endian": lambda x: x.astype(">f8"),
    "long double": lambda x: x.astype(np.longdouble),
    "read-only": lambda x: np.frombuffer(x.tobytes()).reshape(x.shape),
    "object": lambda x: x.astype(object),
    "masked, nothing is": np.ma.masked_array,
    "torch": torch.tensor,
    "torch that learns": lambda x: torch.tensor(x, requires_grad=True),
    "torch, sparse": lambda x: torch.tensor(x).to_sparse(),
}
TABLES: dict[str, Callable[[np.ndarray], Any]] = {  # of two dimensions
    "table": pd.DataFrame,
    "table of objects": lambda x: pd.DataFrame(x).astype(object),
    "table that may lack values": lambda x: pd.DataFrame(x).astype("Float64"),
    "sparse matrix": scipy.sparse.csr_matrix,
    "sparse array": scipy.sparse.coo_array,
}
NO_NUMBERS: dict[str, Callable[[np.ndarray], Any]] = {
    "masked": lambda x: np.ma.masked_array(x, x > x.mean()),
    "complex": lambda x: x + 1j,
    "complex torch": lambda x: torch.tensor(x + 1j),
    "text": lambda x: x.astype(str),
    "objects that are none": lambda x: np.full(x.shape, {}, object),
    "NaN": lambda x: np.full(x.shape, np.nan),
    "infinite": lambda x: np.where(x == x.max(), np.inf, x),
    "dates": lambda x: np.zeros(x.shape, "M8[s]"),
    "records": lambda x: np.zeros(x.shape, "i4,f4"),
    "missing": lambda x: np.full(x.shape, pd.NA, object),
    "ragged": lambda x: [x[0].tolist(), []],
    "empty": lambda x: x[:0],
    "none": lambda _: None,
    "number": lambda _: 5,
    "string": lambda _: "abc",
    "dict": lambda x: {"x": x},
    "function": lambda _: print,
    "one dimension": lambda x: x.ravel()[:7],
    "five dimensions": lambda x: x[None, None, None],
    "too large": lambda x: x * np.float64(1e200),
}
PLAIN = {
    "none": None, "true": True, "minus one": -1, "zero": 0, "a half": 0.5, "NaN": float("nan"), "infinite": np.inf,
    "huge": 10**30, "empty": "", "text": "x", "NUL": "a\0b", "surrogate": "a\ud800", "list": [], "dict": {},
    "list of lists": [["x"]], "list of none": [None], "bytes": b"x", "object": object(), "class": int,
    "array": np.arange(3), "generator": (), "path": Path("x"), "date": pd.Timestamp(0), "number of numpy": np.int64(2),
}  # fmt: skip


def settled(call: Callable[[], Any]) -> Any:
    """Return what a call returns, or the one line that says why not: nothing else may come of it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return call()
    except SslsimError as error:
        told = str(error)
    except TypeError as error:  # of Python itself, on a call with other arguments
        told = str(error)
        assert re.search("argument|path|iterable|expected str", told), told
    assert told.strip()
    assert "\n" not in told
    told.encode()  # it can be printed
    return told


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    folder = tmp_path_factory.mktemp("stores")
    arrays = [{u: RNG.standard_normal((2, 20, 4)) for u in ("u", "v", "w")} for _ in "ab"]
    return [sslsim.from_arrays(name, each, folder, family=name) for name, each in zip("ab", arrays, strict=True)]


@pytest.mark.parametrize("kind", [*NUMBERS, *TABLES])
def test_every_kind_of_array_gives_the_same_number(kind: str, stores: list[Any], tmp_path: Path) -> None:
    make: Callable[[Any], Any] = (NUMBERS | TABLES)[kind]
    for measure in ("max_corr", "linear_cka_debiased", "mutual_knn", "linreg_heldout"):
        known = {"utterances": [20, 20, 20]} if measure == "linreg_heldout" else {}
        found = sslsim.similarity(measure, make(X), make(Y), **known)
        assert found == pytest.approx(sslsim.similarity(measure, X, Y, **known), abs=1e-9)
    given = RNG.standard_normal((60, 3))
    if kind != "list":  # which would be several things that are given
        np.testing.assert_array_equal(sslsim.condition(stores, make(given)), given.astype("f4"))
    if kind in NUMBERS:
        attention = make(MAPS.astype(float))
        assert sslsim.attention_cka([attention], [attention]) == pytest.approx(1, abs=1e-6)
        assert np.diag(sslsim.attention_similarity("js", [attention], [attention])) == pytest.approx(1, abs=1e-6)
        store = sslsim.from_arrays("a", {"u": make(X[None])}, tmp_path)
        np.testing.assert_array_equal(store.layer(0)[:], X.astype("f4"))


@pytest.mark.parametrize("kind", NO_NUMBERS)
def test_what_is_no_array_of_numbers_is_refused_wherever_one_is_taken(
    kind: str, stores: list[Any], tmp_path: Path
) -> None:
    make = NO_NUMBERS[kind]
    calls: dict[str, Callable[[], Any]] = {
        "x": lambda: sslsim.similarity("cca", make(X), Y),
        "y": lambda: sslsim.similarity("mutual_knn", X, make(Y)),
        "heads": lambda: sslsim.attention_similarity("pearson", [make(MAPS)], [MAPS]),
        "cka": lambda: sslsim.attention_cka([MAPS], [make(MAPS)]),
        "list of maps": lambda: sslsim.attention_cka(make(MAPS[0]), [MAPS]),
        "store": lambda: sslsim.from_arrays("a", {"u": make(X[None])}, tmp_path / "store"),
        "given": lambda: sslsim.condition(stores, make(X)),
        "given to a comparison": lambda: sslsim.compare(stores, ["cca"], given=make(X), device="cpu"),
    }
    for name, call in calls.items():
        told = settled(call)
        takes = kind == "none" and name == "given to a comparison"  # nothing is given then
        large = kind == "too large" and name == "y"  # whose neurons are z-scored
        assert isinstance(told, str) or takes or large, (name, told)
    assert not (tmp_path / "store").exists()


ARGUMENTS: dict[str, Callable[[Any, Any, Path], Any]] = {
    "measure": lambda v, s, t: sslsim.similarity(v, X, Y),
    "measure of heads": lambda v, s, t: sslsim.attention_similarity(v, [MAPS], [MAPS]),
    "device": lambda v, s, t: sslsim.similarity("cca", X, Y, device=v),
    "device of heads": lambda v, s, t: sslsim.attention_cka([MAPS], [MAPS], device=v),
    "device of a comparison": lambda v, s, t: sslsim.compare(s, ["cca"], device=v),
    "utterances": lambda v, s, t: sslsim.similarity("linreg_heldout", X, Y, utterances=v),
    "sample": lambda v, s, t: sslsim.similarity("rbf_cka", X, Y, sample=v),
    "variance": lambda v, s, t: sslsim.similarity("svcca", X, Y, variance=v),
    "stores": lambda v, s, t: sslsim.compare(v, ["cca"]),
    "stores of partners": lambda v, s, t: sslsim.neuron_partners(v),
    "stores of heads": lambda v, s, t: sslsim.compare_heads(v),
    "one of the stores": lambda v, s, t: sslsim.evidence([*s, v], ["cca"]),
    "measures": lambda v, s, t: sslsim.compare(s, v),
    "measures of evidence": lambda v, s, t: sslsim.evidence(s, v),
    "frames": lambda v, s, t: sslsim.compare(s, ["cca"], frames=v, device="cpu"),
    "between": lambda v, s, t: sslsim.compare(s, ["cca"], between=v, device="cpu"),
    "sample of a comparison": lambda v, s, t: sslsim.compare(s, ["rbf_cka"], sample=v, device="cpu"),
    "given": lambda v, s, t: sslsim.condition(s, v),
    "frames of what is given": lambda v, s, t: sslsim.condition(s, "position", v),
    "name of a store": lambda v, s, t: sslsim.from_arrays(v, {"u": X[None]}, t / "s"),
    "arrays": lambda v, s, t: sslsim.from_arrays("a", v, t / "s"),
    "an utterance's name": lambda v, s, t: sslsim.from_arrays("a", {v if isinstance(v, Hashable) else 0: X[None]}, t),
    "speakers": lambda v, s, t: sslsim.from_arrays("a", {"u": X[None]}, t / "s", speakers=v),
    "a speaker": lambda v, s, t: sslsim.from_arrays("a", {"u": X[None]}, t / "s", speakers={"u": v}),
    "a family": lambda v, s, t: sslsim.from_arrays("a", {"u": X[None]}, t / "s", family=v),
    "corpus": lambda v, s, t: sslsim.read_corpus(v),
    "corpus of a study": lambda v, s, t: sslsim.Study(corpus=v).utterances(),
    "lineup": lambda v, s, t: sslsim.read_lineup(v),
    "checkpoints": lambda v, s, t: sslsim.Study(checkpoints=v).selected(),
    "frames of a study": lambda v, s, t: sslsim.Study(frames=v),
    "queries": lambda v, s, t: sslsim.Study(queries=v),
    "unit": lambda v, s, t: sslsim.Study(unit=v),
    "pool": lambda v, s, t: sslsim.Study(pool=v),
    "stores of units": lambda v, s, t: sslsim.in_units(v, "40ms"),
    "corpus of units": lambda v, s, t: sslsim.in_units(s, "word", corpus=v),
    "dtype": lambda v, s, t: sslsim.Study(dtype=v),
    "site": lambda v, s, t: sslsim.Study(site=v),
    "strict": lambda v, s, t: sslsim.Study(strict=v),
    "max_utterances": lambda v, s, t: sslsim.Subset(max_utterances=v),
    "max_seconds": lambda v, s, t: sslsim.Subset(max_seconds=v),
    "per_speaker": lambda v, s, t: sslsim.Subset(per_speaker=v),
    "seed": lambda v, s, t: sslsim.Subset(seed=v).of(sslsim.Study().utterances()),
    "piece_seconds": lambda v, s, t: sslsim.Segmentation(piece_seconds=v),
    "longest_seconds": lambda v, s, t: sslsim.Segmentation(longest_seconds=v),
    "study file": lambda v, s, t: sslsim.Study.read(v),
    "store": lambda v, s, t: sslsim.open(v),
    "resampling": lambda v, s, t: sslsim.evidence(s, ["svcca"], resampling=v),
    "resampling of heads": lambda v, s, t: sslsim.attention_evidence(s, resampling=v),
    "permutations": lambda v, s, t: sslsim.Resampling(permutations=v),
    "blocks": lambda v, s, t: sslsim.Resampling(blocks=v),
    "block_by": lambda v, s, t: sslsim.Resampling(block_by=v),
    "elsewhere": lambda v, s, t: sslsim.Resampling(elsewhere=v),
    "depths": lambda v, s, t: sslsim.Resampling(depths=v),
    "rows": lambda v, s, t: sslsim.attention_evidence(s, rows=v, device="cpu"),
    "executor": lambda v, s, t: sslsim.compare(s, ["cca"], executor=v, device="cpu"),
    "device of an extraction": lambda v, s, t: sslsim.Study(checkpoints=["log-mel"]).extract(t / "s", device=v),
    "folder of an extraction": lambda v, s, t: sslsim.extract("x", v),
    "marks": lambda v, s, t: sslsim.speech.alignments_of(v),
    "folder of a report": lambda v, s, t: sslsim.Report(v, name="x"),
}


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_any_value_of_any_argument(
    argument: str, stores: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").mkdir()  # where a path is taken, 'x' is an empty folder
    for name, value in PLAIN.items():
        try:
            settled(lambda value=value: ARGUMENTS[argument](value, stores, tmp_path))  # type: ignore[misc]
        except BaseException as error:
            raise AssertionError(f"{argument} = {name}") from error


DEEP = "[" * 5000 + "]" * 5000
FILES: dict[str, tuple[str, bytes]] = {
    "nothing": ("x.csv", b""),
    "no columns": ("x.csv", b"\n"),
    "NUL in an id": ("x.csv", b"id,path\na\0b,c.wav\n"),
    "NUL in a speaker": ("x.jsonl", b'{"id": "a", "path": "c.wav", "speaker": "a\\u0000"}\n'),
    "NUL in a path": ("x.jsonl", b'{"id": "a", "path": "c\\u0000.wav"}\n'),
    "a lone surrogate": ("x.jsonl", b'{"id": "\\ud800", "path": "c.wav"}\n'),
    "not UTF-8": ("x.tsv", b"id\tpath\n\xff\tc.wav\n"),
    "UTF-16": ("x.csv", "id,path\na,c.wav\n".encode("utf-16")),
    "deep": ("x.jsonl", DEEP.encode()),
    "deep in an object": ("x.jsonl", b'{"id": "a", "path": ' + DEEP.encode() + b"}"),
    "numbers": ("x.jsonl", b'{"id": 1e999, "path": NaN}\n'),
    "a list": ("x.jsonl", b"[1]\n"),
    "a quote": ("x.csv", b'id,path\n"a,c.wav\n'),
    "too many values": ("x.csv", b"id,path\na,b,c,d\n"),
    "twice": ("x.csv", b"id,id,path\na,b,c\n"),
    "bytes": ("x.csv", bytes(range(256))),
    "a damaged gzip": ("x.jsonl.gz", b"\x1f\x8b\x08" + b"\0" * 7 + b"\xff" * 9),
    "a lineup": ("x.toml", b'[[checkpoint]]\nname = "a"\nsource = "log-mel"\n'),
    "no TOML": ("x.toml", b"= ="),
    "deep TOML": ("x.toml", b"checkpoint = " + DEEP.encode()),
    "TOML that is not UTF-8": ("x.toml", b'name = "\xff"'),
    "a lineup that is a number": ("x.toml", b"checkpoint = 3"),
    "a name that is a list": ("x.toml", b'[[checkpoint]]\nname = ["a"]\nsource = "b"\n'),
    "a source with NUL": ("x.toml", b'[[checkpoint]]\nname = "a"\nsource = "b\\u0000"\n'),
    "a study": ("x.toml", b"frames = true"),
    "a study of no corpus": ("x.toml", b'corpus = ""'),
    "a study of a NUL": ("x.toml", b'corpus = "a\\u0000"'),
    "a study of odd tables": ("x.toml", b"subset = 3\nsegmentation = []"),
    "a study of odd checkpoints": ("x.toml", b"checkpoints = [1, [2]]"),
    "a study of no checkpoints": ("x.toml", b"checkpoints = 7"),
}


@pytest.mark.parametrize("kind", FILES)
def test_any_file(kind: str, tmp_path: Path) -> None:
    name, content = FILES[kind]
    (tmp_path / name).write_bytes(content)
    for read in (sslsim.read_corpus, sslsim.read_lineup, sslsim.Study.read, sslsim.open):
        settled(lambda read=read: read(tmp_path / name))  # type: ignore[misc]
    settled(lambda: sslsim.speech.alignments.read_alignments(tmp_path / name))


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "toml", "wav"])
def test_nothing_waits_for_a_pipe_or_reads_a_device(suffix: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / f"pipe.{suffix}")
    (tmp_path / f"zero.{suffix}").symlink_to("/dev/zero")
    for path in (tmp_path / f"pipe.{suffix}", tmp_path / f"zero.{suffix}"):
        for read in (sslsim.read_corpus, sslsim.read_lineup, sslsim.Study.read, sslsim.open):
            assert isinstance(settled(lambda read=read, path=path: read(path)), str)  # type: ignore[misc]


def test_recordings_that_are_pipes_or_whose_names_are_not_utf_8_are_left_out_and_named(tmp_path: Path) -> None:
    import soundfile

    (tmp_path / "ann").mkdir()
    soundfile.write(tmp_path / "ann/good.wav", tone(0, 9_000), 16_000)
    os.link(tmp_path / "ann/good.wav", os.fsencode(tmp_path) + b"/ann/caf\xe9.wav")
    os.mkfifo(tmp_path / "ann/pipe.wav")
    (tmp_path / "ann/zero.wav").symlink_to("/dev/zero")
    corpus = sslsim.read_corpus(tmp_path)
    json.dumps([corpus._repr_html_(), [u.id for u in corpus]]).encode()
    index, skipped = index_of(sslsim.Subset(max_seconds=60).of(corpus), sslsim.Segmentation())
    assert index.utterance.tolist() == ["ann/good"]
    skipped.to_csv(tmp_path / "skipped.csv")
    assert dict(zip(skipped.utterance, skipped.reason, strict=True)) == {
        "ann/caf\\udce9": "its name is not UTF-8, or has a NUL; rename it",
        "ann/pipe": "cannot be read: a device, a pipe or a socket",
        "ann/zero": "cannot be read: a device, a pipe or a socket",
    }


WORDS = [
    "",
    ",",
    " ",
    "-1",
    "0",
    "0.5",
    "nan",
    "inf",
    "1e99",
    "9" * 40,
    "none",
    "true",
    "é",
    "\udce9",
    "[",
    "[1]",
    "x=y",
]
OPTIONS = [
    *("lineup", "corpus", "checkpoints", "max-utterances", "max-seconds", "per-speaker", "seed", "frames", "queries"),
    *("piece-seconds", "longest-seconds", "dtype", "site", "study", "out", "store", "device", "jobs", "sweep", "-p"),
]


@pytest.mark.parametrize("option", OPTIONS)
def test_any_word_for_any_option(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Everything up to the first work that takes time."""
    notebook = write_notebook(tmp_path / "some.ipynb", GOOD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner.Run, "extract", lambda *_: None)
    monkeypatch.setattr(runner, "run_all", lambda *_: None)
    monkeypatch.setattr(
        "sslsim.activations.study.extract_all", lambda study, *_: study.selected() and study.utterances() and []
    )
    flag = option if option == "-p" else f"--{option}"
    for word in WORDS:
        if word == "\udce9" and option in ("out", "store"):
            continue
        value = f"count={word}" if option == "-p" else f"count={word}" if option == "sweep" and word else word
        for command in (["run", str(notebook)], ["extract"]):
            if command[0] == "extract" and option in ("store", "jobs", "sweep", "-p"):
                continue
            check(
                f"{command[0]} {option} {word!r}",
                [*command, f"{flag}={value}" if flag != "-p" else f"-p{value}"],
                capsys,
            )


RECORDS: dict[str, Any] = {
    "empty": b"", "no JSON": b"{", "deep": DEEP.encode(), "no UTF-8": b"\xff", "a list": [], "a number": 3,
    "nothing": {},
    "another format": RUN | {"format": 99},
    "notebooks that are a list": RUN | {"notebooks": []},
    "a notebook that is a number": RUN | {"notebooks": {"some": 3}},
    "checkpoints that are none": RUN | {"checkpoints": None},
    "a checkpoint that is a number": RUN | {"checkpoints": [1]},
    "no corpus": RUN | {"corpus": None},
    "no versions": {name: value for name, value in RUN.items() if name != "versions"},
    "a study that is a list": RUN | {"study": []},
}  # fmt: skip


def check(what: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Hold that a command ends in a status, and says in one line what was wrong."""
    try:
        status = cli.main(words)
    except SystemExit as error:  # of the parser
        status = error.code if isinstance(error.code, int) else 1
        assert "usage: " in capsys.readouterr().err
    except BaseException as error:
        raise AssertionError(what) from error
    err = capsys.readouterr().err
    assert status in (0, 1, 2), what
    if status == 2 and err:
        assert re.fullmatch("sslsim: error: [^\n]+\n", err), what
        err.encode(errors="strict")


@pytest.mark.parametrize("kind", RECORDS)
def test_any_record_of_a_run(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    content = RECORDS[kind] if isinstance(RECORDS[kind], bytes) else json.dumps(RECORDS[kind]).encode()
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    (tmp_path / "a/run.json").write_bytes(content)
    (tmp_path / "b/run.json").write_text(json.dumps(RUN))
    for words in ("a b", "b a", "a a"):
        check(kind, ["compare-runs", *(str(tmp_path / word) for word in words.split())], capsys)
