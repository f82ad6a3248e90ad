from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from toys import write_notebook

import sslsim
from sslsim import cli
from sslsim.errors import SslsimError
from sslsim.reports import jobs, runner
from sslsim.reports.jobs import FIELDS
from sslsim.resources import DATA, NOTEBOOKS

HEAVY = ("torch", "transformers", "numpy", "soundfile", "pandas", "matplotlib", "nbconvert", "papermill", "nbformat")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep what a command changes in the environment of its process out of the next test."""
    monkeypatch.setenv("SSLSIM_SCHEDULER", "")


def as_json(value: Any) -> Any:
    return json.loads(json.dumps(value, default=str))


def test_help_is_quick_and_names_commands_defaults_and_examples() -> None:
    for arguments, texts in {
        "": ["run", "compare-runs", "extract", "checkpoints", "measures", "parameters", "notebooks", "examples:"],
        "bundle": ["OUT", "ZIP", "default OUT.zip beside it"],
        "run": ["NOTEBOOK", "--lineup", "the embedded one", "default reports", "-p NAME=VALUE", "examples:"],
        "compare-runs": ["--tolerance", "default 1e-09", "default B/compare-A.html"],
        "extract": ["--queries", "default 16", "--max-utterances", "default none, no limit"],
        "checkpoints": ["--lineup"],
    }.items():
        words = [*arguments.split(), "--help"]
        code = f"import sys; from sslsim.cli import main\ntry: main({words})\nfinally: print(*sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        *shown, modules = done.stdout.splitlines()
        assert [text for text in texts if text not in " ".join("\n".join(shown).split())] == []
        assert {*HEAVY} & {*modules.split()} == set()


@pytest.mark.parametrize(
    "words",
    [
        ["run", "nosuch"],
        ["run", "-p", "cont=1"],
        ["run", "-p", "checkpoints=nosuch"],
        ["run", "--checkpoints", "nosuch"],
        ["run", "--corpus", "nosuch"],
        ["run", "--sweep", "nosuch=1,2"],
        ["run", "--sweep", "checkpoints=nosuch"],
        ["extract", "--lineup", "nosuch"],
        ["checkpoints", "--lineup", "nosuch"],
        ["compare-runs", "nosuch", "nosuch-either"],
        ["bundle", "nosuch"],
    ],
)
def test_an_error_does_not_wait_for_what_takes_seconds(words: list[str]) -> None:
    code = f"import sys; from sslsim.cli import main\nprint(main({words})); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    status, modules = done.stdout.splitlines()
    assert status == "2"
    assert {"torch", "transformers", "matplotlib", "nbconvert", "papermill", "nbformat"} & {*modules.split()} == set()


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("run nosuch", "sslsim: error: unknown notebook 'nosuch'; known: .*"),
        ("run {nb} -p cont=1", "sslsim: error: unknown parameter 'cont'; did you mean 'count'\\?"),
        ("run {nb} -p count", "sslsim: error: -p count: expected NAME=VALUE"),
        ("run {nb} -p count=1 -p count=2", "sslsim: error: parameter count is given twice: '1' and '2'"),
        ("run {nb} --jobs 0", "sslsim: error: --jobs 0: at least 1 is needed"),
        ("run {nb} --lineup {tmp}/no.toml", "sslsim: error: lineup not found: .*no.toml; give an existing one .*"),
        ("run {nb} --queries few", "sslsim: error: parameter queries: 'few' is not an int or none \\(default 16\\)"),
        ("run {nb} --study {tmp}/no.toml", "sslsim: error: study .*no.toml.*"),
        ("run {nb} --sweep cont=1,2", "sslsim: error: run cont-1: unknown parameter 'cont'; did you mean 'count'\\?"),
        ("compare-runs {tmp} {tmp}", "sslsim: error: .* holds no run.json of this version; name a folder that .*"),
        ("extract --corpus {tmp}/no", "sslsim: error: corpus not found: .*/no; give an existing one with --corpus"),
        ("extract --scheduler tcp://127.0.0.1:1 --checkpoints log-mel", "sslsim: error: .*127.0.0.1:1.*"),
        ("checkpoints --lineup {tmp}/no.toml", "sslsim: error: .*no.toml.*"),
    ],
)
def test_a_users_error_is_one_line_and_exit_2(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: str, text: str
) -> None:
    monkeypatch.setattr("sslsim.parallel.CONNECT", 1)
    notebook = write_notebook(tmp_path / "some.ipynb", ["# T", ("parameters", "count: int = 1")])
    words = [word.format(nb=notebook, tmp=tmp_path) for word in arguments.split()]
    words += ["--out", str(tmp_path / "out")] * (words[0] != "checkpoints")
    assert cli.main(words) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert re.fullmatch(text, err.removesuffix("\n"))
    assert not (tmp_path / "out").exists()


def test_wrong_options_are_refused_with_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, text in {
        "": "the following arguments are required: COMMAND",
        "run --quick": "unrecognized arguments: --quick",
    }.items():
        with pytest.raises(SystemExit, match="2"):
            cli.main(arguments.split())
        assert text in capsys.readouterr().err


def test_what_the_system_refuses_and_ctrl_c_end_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for error, code, text in (
        (PermissionError(13, "Permission denied", "/x"), 2, "sslsim: error: [Errno 13] Permission denied: '/x'\n"),
        (SslsimError("two\n lines"), 2, "sslsim: error: two lines\n"),
        (KeyboardInterrupt(), 130, "sslsim: interrupted\n"),
    ):

        def fail(*_: Any, error: BaseException = error) -> int:
            raise error

        monkeypatch.setattr(runner, "run", fail)
        assert cli.main(["run"]) == code
        assert capsys.readouterr().err == text
    monkeypatch.setenv("SSLSIM_DEBUG", "1")
    with pytest.raises(SslsimError, match="unknown notebook"):
        cli.main(["run", "nosuch", "--sweep", "seed=1"])


def test_flags_have_the_defaults_of_a_study_and_each_reaches_its_field(tmp_path: Path) -> None:
    default = as_json(jobs.described(sslsim.Study()))
    assert {name: field.default for name, field in FIELDS.items()} == default | {
        name: FIELDS[name].default for name in ("lineup", "corpus")
    }
    values = {"lineup": "paper", "corpus": str(tmp_path), "checkpoints": "a,b", "max_utterances": "9", "seed": "4"}
    values |= {"max_seconds": "60.5", "per_speaker": "3", "frames": "7", "queries": "none"}
    values |= {"piece_seconds": "20", "longest_seconds": "99", "dtype": "bfloat16", "strict": True}
    values |= {"speaker_pattern": "(a)/", "columns": "path=file,id=utt", "unit": "phone", "pool": "centre"}
    values |= {"site": "hidden"}
    study = jobs.study_of(given=values)
    study.write(tmp_path / "study.toml")
    assert sslsim.Study.read(tmp_path / "study.toml") == study
    assert as_json(jobs.described(study)) == {
        "lineup": str(DATA / "lineups/paper.toml"),
        "corpus": str(tmp_path),
        "checkpoints": ["a", "b"],
        "max_utterances": 9,
        "max_seconds": 60.5,
        "per_speaker": 3,
        "seed": 4,
        "frames": 7,
        "queries": None,
        "unit": "phone",
        "pool": "centre",
        "piece_seconds": 20.0,
        "longest_seconds": 99.0,
        "dtype": "bfloat16",
        "site": "hidden",
        "strict": True,
        "speaker_pattern": "(a)/",
        "columns": ["path=file", "id=utt"],
    }


def test_extraction_and_notebooks_see_one_study(checkpoints: Path, corpus: Path, tmp_path: Path, capsys: Any) -> None:
    here = ["--lineup", f"{checkpoints}/lineup.toml", "--corpus", str(corpus), "--queries", "4"]
    one = ["--checkpoints", "hubert-post", "--device", "cpu"]
    assert cli.main(["extract", *here, *one, "--max-utterances", "2", "--out", str(tmp_path / "store")]) == 0
    told = capsys.readouterr().out.splitlines()
    assert re.fullmatch(rf"hubert-post: 4 layers, \d+ frames, {tmp_path}/store/.*", told[-1])
    shared = "study: str = 'embedded'\ncheckpoints: list[str] = []\nstore: str = ''\nout: str = ''\ndevice: str = ''"
    code = "import pandas as pd\nimport sslsim\n"
    code += "stores = sslsim.Study.read(study, checkpoints).extract(store, device=device)"
    show = "sslsim.Report(out).table('stores', pd.DataFrame({'model': [s.checkpoint.name for s in stores]}))"
    notebook = write_notebook(tmp_path / "a.ipynb", ["# A", ("parameters", shared), f"{code}\n{show}"])
    words = [str(notebook), *here, "--device", "cpu", "-p", "checkpoints=hubert-pre,hubert-post", "--seed", "1"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(cli.__file__).parents[1]))
        assert cli.main(["run", *words, "--out", str(tmp_path / "out"), "--store", str(tmp_path / "store")]) == 0
    study = tomllib.loads((tmp_path / "out/study.toml").read_text())
    assert (study["corpus"], study["queries"], study["subset"]["seed"]) == (str(corpus), 4, 1)
    assert (tmp_path / "out/tables/a-stores.csv").read_text() == "model\nhubert-pre\nhubert-post\n"
    run = runner.record.read(tmp_path / "out/run.json")
    assert [row["name"] for row in run["checkpoints"]] == ["hubert-pre", "hubert-post"]
    assert run["corpus"]["utterances"] == 4
    assert re.fullmatch(r"bob \d s, ann \d s", run["corpus"]["speakers"])
    assert run["corpus"]["upsampled"].startswith("1 of 4 utterances")
    assert run["notebooks"]["a"]["keys"] == {"stores": ["model"]}


def test_to_compute_anew_is_told_to_all_that_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setenv("SSLSIM_FRESH", "")
    monkeypatch.setattr(runner, "run", lambda _: told.append(cli.os.environ["SSLSIM_FRESH"]) or 0)
    before = time.time()
    assert [cli.main(["run"]), cli.main(["run", "--fresh"])] == [0, 0]
    assert told[0] == ""
    assert before <= float(told[1]) <= time.time()


def test_a_scheduler_is_told_to_all_that_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str | None] = []
    monkeypatch.setattr(runner, "run", lambda _: told.append(cli.os.environ.get("SSLSIM_SCHEDULER")) or 0)
    assert [cli.main(["run"]), cli.main(["run", "--scheduler", "tcp://a:1"])] == [0, 0]
    assert told == ["", "tcp://a:1"]


def test_checkpoints_measures_and_parameters_are_printed(checkpoints: Path, capsys: Any) -> None:
    assert cli.main(["checkpoints", "--lineup", f"{checkpoints}/lineup.toml"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:6] == ["name", "family", "size", "layers", "neurons", "heads"]
    assert len(lines) == 9
    assert next(line for line in lines if line.startswith("hubert-post ")).split()[1:4] == ["4", "24", "4"]
    assert cli.main(["measures"]) == 0
    assert {line.split()[0] for line in capsys.readouterr().out.splitlines()} >= set(sslsim.MEASURES)
    assert cli.main(["parameters", "layers"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "layers:"
    assert [line for line in lines if re.match(r"frames +int \| None +4000 +frames to compare", line)]


def test_notebooks_are_copied_and_none_is_replaced(tmp_path: Path, capsys: Any) -> None:
    assert cli.main(["notebooks", str(tmp_path / "mine")]) == 0
    copies = sorted((tmp_path / "mine").iterdir())
    assert [copy.name for copy in copies] == ["README.md", *sorted(path.name for path in NOTEBOOKS.glob("*.ipynb"))]
    assert all(copy.read_bytes() == (NOTEBOOKS / copy.name).read_bytes() for copy in copies)
    shutil.rmtree(tmp_path / "mine")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/layers.ipynb").write_text("mine")
    assert cli.main(["notebooks", str(tmp_path / "mine")]) == 2
    assert "mine has layers.ipynb already; name another folder" in capsys.readouterr().err
    assert [path.read_text() for path in (tmp_path / "mine").iterdir()] == ["mine"]


@pytest.mark.parametrize("words", [["--corpus", ""], ["--out", " "], ["--checkpoints", ","], ["--store="]])
def test_a_value_that_is_empty_is_refused(words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["run", *words]) == 2
    assert (
        capsys.readouterr().err
        == f"sslsim: error: {words[-1]!r} among the arguments is empty; give it a value, or leave it out\n"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("neurons -p measures=svca", r"measures is \['svca'\]: unknown measure 'svca'; did you mean 'svcca'\?"),
        ("layers -p measures=pearson", r"measures is \['pearson'\]: give measures that compare layers"),
        ("attention -p measures=cca", r"measures is \['cca'\]: give measures that compare attention"),
        ("layers -p measures=", r"measures is \[\]: give measures that compare layers"),
        ("layers -p given=phones", "given is 'phones': unknown name; did you mean 'loudness'\\?"),
        ("layers -p block_by=phone", "block_by is 'phone': .*give one of utterance, speaker"),
        ("-p permutations=-1", "permutations is -1: .*whole number, 0 or more"),
        ("-p blocks=1", "blocks is 1: .*"),
        ("-p null_seed=-1", "null_seed is -1: .*whole number, 0 or more"),
        ("-p frames=-5", "frames is -5: .*2 or more, or None for all"),
        ("-p rows=0", "rows is 0: give 1 or more"),
        ("-p listen=-1", "listen is -1: give 0 or more"),
        ("--device gpu", "device is 'gpu': .*"),
    ],
)
def test_values_are_checked_before_any_audio_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, words: str, text: str
) -> None:
    monkeypatch.setattr(sslsim.Study, "utterances", lambda _: pytest.fail("the corpus was read"))
    assert cli.main(["run", *words.split(), "--out", str(tmp_path / "out")]) == 2
    assert re.fullmatch(f"sslsim: error: parameter {text}\n", capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_a_name_that_means_something_else_in_a_notebook_takes_any_value(tmp_path: Path, capsys: Any) -> None:
    source = "frames: int | None = 0  # 0 takes all\nlisten: str = 'no'"
    notebook = write_notebook(tmp_path / "a.ipynb", ["# A", ("parameters", source)])
    words = ["run", str(notebook), "-p", "frames=1", "-p", "listen=-1", "--dry-run", "--out", str(tmp_path / "out")]
    assert cli.main(words) == 0
    assert capsys.readouterr().out == f"{tmp_path}/out: a\n"


def test_a_dry_run_tells_and_does_nothing(checkpoints: Path, corpus: Path, tmp_path: Path, capsys: Any) -> None:
    here = [
        "--lineup",
        f"{checkpoints}/lineup.toml",
        "--corpus",
        str(corpus),
        "--checkpoints",
        "hubert-pre,hubert-post",
    ]
    assert cli.main(["run", "layers", *here, "--device", "cpu", "--dry-run", "--out", str(tmp_path / "out")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{tmp_path}/out: layers"
    assert lines[1].startswith("hubert-pre, hubert-post: ")
    assert re.match(r"to extract on cpu: 1 minutes of audio by 2 of 2 .* this takes about .* free", lines[2])
    assert re.fullmatch(r"speakers: bob \d s, ann \d s", lines[3])
    assert lines[4] == "upsampled: 1 of 4 utterances, the lowest with nothing above 4 kHz"
    assert re.match(r"about \d+ minutes of extraction on \d+ processors, then \d+ of all five notebooks", lines[5])
    assert list(tmp_path.iterdir()) == []
    sweep = ["--sweep", "null_seed=0,1", "--dry-run", "--out", str(tmp_path / "out")]
    assert cli.main(["run", "layers", *here, *sweep]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 7
    assert list(tmp_path.iterdir()) == []


def test_blocks_of_speakers_need_two_before_anything_is_extracted(
    checkpoints: Path, corpus: Path, tmp_path: Path
) -> None:
    (tmp_path / "m.csv").write_text(f"path\n{corpus}/ann/a.wav\n{corpus}/bob/c.wav\n")
    request = jobs.Request(
        tmp_path / "out",
        notebooks=("layers",),
        parameters={"block_by": "speaker"},
        fields={"lineup": f"{checkpoints}/lineup.toml", "corpus": str(tmp_path / "m.csv")},
        dry=True,
    )
    named = (
        "name them by --speaker-pattern, by a column speaker of a manifest, or by folders, or take block_by=utterance"
    )
    with pytest.raises(SslsimError, match=f"block_by is 'speaker', and the corpus has one, ''; {named}"):
        runner.run(request)
    assert not (tmp_path / "out").exists()
    assert runner.run(replace(request, fields={**request.fields, "speaker_pattern": "(ann|bob)/"})) == 0
