from __future__ import annotations

import inspect
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from toys import write_notebook

from sslsim import __version__, cli, parallel
from sslsim.activations import extract as extraction
from sslsim.encoders import load as models
from sslsim.encoders.encoder import Anatomy
from sslsim.encoders.lineup import Checkpoint
from sslsim.errors import SslsimError
from sslsim.reports import diff as compare_runs
from sslsim.reports import runner as report
from sslsim.reports import sweep
from sslsim.reports.jobs import plan

HEAVY = ("torch", "transformers", "numpy", "soundfile", "pandas", "matplotlib", "nbconvert", "papermill")


@dataclass(frozen=True)
class Store:
    """What the command line reads of an activation store."""

    checkpoint: Any
    root: Path = Path("store/w2v-1")
    n_layers: int = 7
    n_neurons: int = 64
    n_heads: int = 4
    n_frames: int = 12345
    fingerprint: str = "f00"
    corpus_fingerprint: str = "c0"
    index: Any = None
    skipped: Any = ()


def store(name: str) -> Any:
    checkpoint = Checkpoint(name, "org/w2v", family="w2v", size="s")
    return Store(checkpoint, Path("store") / name, index=pd.DataFrame({"n_samples": [16000 * 90]}))


def test_help_is_quick_and_names_commands_defaults_and_examples() -> None:
    for arguments, texts in {
        "": ["run", "compare-runs", "extract", "checkpoints", "examples:", "exit status"],
        "run": ["NOTEBOOK", "--lineup", "default the embedded one", "default reports", "-p NAME=VALUE", "examples:"],
        "compare-runs": ["--tolerance", "default 1e-09", "default B/compare-A.html"],
        "extract": ["--queries", "default 16", "--max-utterances"],
        "checkpoints": ["--lineup"],
    }.items():
        words = [*arguments.split(), "--help"]
        code = f"import sys; from sslsim.cli import main\ntry: main({words})\nfinally: print(*sys.modules)"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=cli.DATA.parent, check=True
        )
        *shown, modules = done.stdout.splitlines()
        assert [text for text in texts if text not in " ".join("\n".join(shown).split())] == []
        assert {*HEAVY} & {*modules.split()} == set()


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        cli.main(["--version"])
    assert capsys.readouterr().out == f"sslsim {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ("run nosuch", "sslsim: error: unknown notebook 'nosuch'; known: .*"),
        ("run {nb} -p cont=1", "sslsim: error: unknown parameter 'cont'; did you mean 'count'\\?"),
        ("run {nb} -p count=abc", "sslsim: error: parameter count: 'abc' is not an int \\(default 1\\)"),
        ("run {nb} -p count", "sslsim: error: -p count: expected NAME=VALUE"),
        ("run {nb} -p count=1 -p count=2", "sslsim: error: parameter count is given twice: '1' and '2'"),
        ("run {nb} --workers 0", "sslsim: error: workers is 0; at least 1 is needed"),
        (
            "run {nb} --lineup {tmp}/no.toml",
            "sslsim: error: lineup not found: .*no.toml; give an existing one with --lineup",
        ),
        ("run {nb} --corpus {tmp}/no", "sslsim: error: corpus not found: .*/no; give an existing one with --corpus"),
        ("run {nb} --sweep cont=1,2", "sslsim: error: run cont-1: unknown parameter 'cont'; did you mean 'count'\\?"),
        ("run --sweep {nb}", "sslsim: error: --sweep .*some.ipynb: expected NAME=VALUE,VALUE or FILE.toml"),
        ("run {nb} --sweep count=1 --workers 0", "sslsim: error: workers is 0; at least 1 is needed"),
        ("compare-runs {tmp} {tmp}", "sslsim: error: .* holds no run.json of this version; name a folder that .*"),
        ("extract --lineup {tmp}/no.toml", "sslsim: error: .*no.toml.*"),
        ("checkpoints --lineup {tmp}/no.toml", "sslsim: error: .*no.toml.*"),
    ],
)
def test_a_users_error_is_one_line_and_exit_2(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], arguments: str, text: str
) -> None:
    notebook = write_notebook(
        tmp_path / "some.ipynb", ["# T", ("parameters", "count: int = 1\nlineup: str = ''\ncorpus: str = ''")]
    )
    words = [word.format(nb=notebook, tmp=tmp_path) for word in arguments.split()]
    words += ["--out", str(tmp_path / "out")] * (words[0] != "checkpoints")
    assert cli.main(words) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert re.fullmatch(text, err.removesuffix("\n"))
    assert not (tmp_path / "out").exists()


def test_wrong_options_are_refused_with_the_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, text in {
        "extract --queries some": "argument --queries: 'some' is neither a number nor 'all'",
        "": "the following arguments are required: COMMAND",
        "run --quick": "unrecognized arguments: --quick",
    }.items():
        with pytest.raises(SystemExit, match="2"):
            cli.main(arguments.split())
        assert text in capsys.readouterr().err


def test_an_error_can_be_traced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSLSIM_DEBUG", "1")
    with pytest.raises(SslsimError, match="unknown notebook"):
        cli.main(["run", "nosuch"])


def test_what_the_system_refuses_and_ctrl_c_end_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for error, code, text in (
        (PermissionError(13, "Permission denied", "/x"), 2, "sslsim: error: [Errno 13] Permission denied: '/x'\n"),
        (SslsimError("two\n lines"), 2, "sslsim: error: two lines\n"),
        (KeyboardInterrupt(), 130, "sslsim: interrupted\n"),
    ):

        def fail(*_: Any, error: BaseException = error, **__: Any) -> int:
            raise error

        monkeypatch.setattr(report, "run", fail)
        assert cli.main(["run"]) == code
        assert capsys.readouterr().err == text


def test_run_hands_its_options_on(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[tuple, dict[str, Any]]] = []
    monkeypatch.setattr(report, "run", lambda *args, **kwargs: calls.append((args, kwargs)) or 1)
    assert cli.main(["run", "-p", "frames=5", "layers", "-p", "names=a,b=c", "--workers", "2"]) == 1
    (args, kwargs), *_ = calls
    assert args == (["layers"],)
    assert kwargs.pop("prepare").keywords == {"strict": False}
    assert kwargs == {
        "lineup": cli.LINEUP,
        "corpus": cli.CORPUS,
        "out": Path("reports"),
        "store": None,
        "parameters": {"frames": "5", "names": "a,b=c"},
        "workers": 2,
    }


def test_a_sweep_takes_what_has_an_equals_sign_or_is_a_toml_file(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[tuple, dict[str, Any]]] = []
    monkeypatch.setattr(sweep, "run", lambda *args, **kwargs: calls.append((args, kwargs)) or 1)
    for words in (
        "--sweep frames=5,6 --sweep seed=0 layers",
        "layers --sweep frames=5,6 seed=0 -p x=1",
        "--sweep frames=5,6 layers seed=0 -p x=1",
    ):
        assert cli.main(["run", *words.split(), "--out", "sweeps"]) == 1
        (args, kwargs) = calls.pop()
        assert args == (["frames=5,6", "seed=0"], ["layers"])
        assert kwargs.pop("prepare").keywords == {"strict": False, "opened": {}}
        assert kwargs.pop("parameters") == ({"x": "1"} if "-p" in words else {})
        assert kwargs == {
            "lineup": cli.LINEUP,
            "corpus": cli.CORPUS,
            "out": Path("sweeps"),
            "store": None,
            "workers": None,
        }
    cli.main(["run", "neurons", "--sweep", "a=b/sweep.toml", "c.ipynb"])
    assert calls.pop()[0] == (["a=b/sweep.toml"], ["neurons", "c.ipynb"])
    cli.main(["run", "--sweep", "sweep.toml"])
    assert calls.pop()[0] == (["sweep.toml"], [])


def test_compare_runs_hands_its_options_on(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[tuple, dict[str, Any]]] = []
    monkeypatch.setattr(compare_runs, "compare_runs", lambda *args, **kwargs: calls.append((args, kwargs)) or 1)
    assert cli.main(["compare-runs", "a", "b"]) == 1
    assert cli.main(["compare-runs", "a", "b", "--out", "c.html", "--tolerance", "0.5"]) == 1
    assert calls == [
        ((Path("a"), Path("b")), {"out": None, "tolerance": 1e-9}),
        ((Path("a"), Path("b")), {"out": Path("c.html"), "tolerance": 0.5}),
    ]


def test_run_extracts_once_what_its_notebooks_will_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shared = "lineup: str = ''\ncorpus: str = ''\nstore: str = ''\ncheckpoints: list = []"
    notebooks = [
        write_notebook(tmp_path / "a.ipynb", ["# A", ("parameters", shared)]),
        write_notebook(tmp_path / "b.ipynb", ["# B", ("parameters", f"{shared}\nqueries: int = 4")]),
        write_notebook(tmp_path / "c.ipynb", ["# C", ("parameters", shared)]),
        write_notebook(tmp_path / "d.ipynb", ["# D", ("parameters", "x: int = 1")]),
    ]
    calls: list[dict[str, Any]] = []

    def extract(*paths: str, **options: Any) -> list[Any]:
        calls.append({"paths": paths, **options})
        return [store("w2v"), store(f"w2v-{options.get('queries', 32)}")]

    monkeypatch.setattr(extraction, "extract", extract)
    paths = {"lineup": tmp_path, "corpus": tmp_path, "store": tmp_path / "store"}
    jobs = plan([str(notebook) for notebook in notebooks], paths=paths, parameters={"checkpoints": "w2v"})
    facts = cli._prepare(jobs)
    where = (str(tmp_path), str(tmp_path), str(tmp_path / "store"))
    assert calls == [
        {"paths": where, "checkpoints": ["w2v"]},
        {"paths": where, "checkpoints": ["w2v"], "queries": 4},
    ]
    assert [row["name"] for row in facts["checkpoints"]] == ["w2v", "w2v-32", "w2v-4"]
    assert facts["checkpoints"][0]["fingerprint"] == "f00"
    assert facts["checkpoints"][0]["seed_of"] == store("w2v").checkpoint.seed_of
    assert facts["corpus"] == {"utterances": 1, "minutes": 1.5, "left out": 0, "fingerprint": "c0"}
    assert cli._prepare(jobs[3:]) == {"checkpoints": [], "corpus": {}}
    opened: dict[str, list[Any]] = {}
    assert [cli._prepare(jobs, opened=opened) for _ in range(3)] == [facts] * 3  # as the runs of a sweep do
    assert len(calls) == 4
    assert cli._prepare(jobs) == facts
    (tmp_path / "marks.csv").write_text("id,kind,label,start,end\na,phone,x,0,1\n")
    marks = [cli._prepare(jobs)["corpus"].pop("marks")]
    (tmp_path / "marks.csv").write_text("id,kind,label,start,end\na,phone,y,0,1\n")
    marks += [cli._prepare(jobs)["corpus"].pop("marks")]
    assert len({*marks, ""}) == 3  # another label is another corpus to a run that is taken up again


def test_a_scheduler_is_handed_to_notebooks_and_extraction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(report, "run", lambda *_, **kwargs: calls.append(kwargs) or 0)
    cli.main(["run", "--scheduler", "tcp://a:1"])
    cli.main(["run", "--scheduler", "tcp://a:1", "-p", "scheduler=tcp://b:2"])
    assert [call["parameters"] for call in calls] == [{"scheduler": "tcp://a:1"}, {"scheduler": "tcp://b:2"}]

    monkeypatch.setattr(parallel, "executor", lambda *, scheduler: f"executor at {scheduler}")
    monkeypatch.setattr(extraction, "extract", lambda *_, **options: calls.append(options) or [])
    shared = "lineup: str = ''\ncorpus: str = ''\nstore: str = ''\nscheduler: str = ''"
    notebook = write_notebook(tmp_path / "a.ipynb", ["# A", ("parameters", shared)])
    paths = {"lineup": tmp_path, "corpus": tmp_path, "store": tmp_path / "store"}
    for parameters in ({}, {"scheduler": "tcp://a:1"}):
        cli._prepare(plan([str(notebook)], paths=paths, parameters=parameters))
    assert calls[2:] == [{}, {"executor": "executor at tcp://a:1"}]


def test_extract_hands_its_options_on_and_says_what_is_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[dict[str, Any]] = []

    def extract(*paths: Any, **options: Any) -> list[Any]:
        calls.append({"paths": paths, **options})
        return [store("w2v")]

    monkeypatch.setattr(extraction, "extract", extract)
    arguments = "extract --checkpoints a,b --queries all --max-utterances 9 --lineup l --corpus c --out s"
    arguments += " --max-seconds 60.5 --per-speaker 3 --seed 4 --piece-seconds 20 --longest-seconds 99"
    arguments += " --strict --frames 7 --dtype bfloat16"
    assert cli.main(arguments.split()) == 0
    options = {"checkpoints": ["a", "b"], "max_utterances": 9, "queries": "all", "executor": None, "device": "cpu"}
    options |= {"max_seconds": 60.5, "per_speaker": 3, "seed": 4, "piece_seconds": 20.0, "longest_seconds": 99.0}
    options |= {"strict": True, "frames": 7, "dtype": "bfloat16"}
    assert calls == [{"paths": (Path("l"), Path("c"), Path("s")), **options}]
    assert capsys.readouterr().out == "w2v: 7 layers, 12,345 frames, store/w2v\n"


def test_the_command_and_the_function_extract_have_the_same_defaults() -> None:
    declared = {name: p.default for name, p in inspect.signature(extraction.extract).parameters.items()}
    given = vars(cli._parser().parse_args(["extract"]))
    shared = set(given) - {"command", "scheduler", "lineup", "corpus", "out", "checkpoints"}
    assert {name: given[name] for name in shared} == {name: declared[name] for name in shared}
    assert set(declared) - set(given) == {"shard_seconds", "executor", "progress"}


def test_checkpoints_shows_sizes_and_hash(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    heard = {"normalised": True, "mask": False, "features": "group"}
    flags = {"normed": True, "input_normed": True, "final_norm": False}
    encoder = SimpleNamespace(anatomy=Anatomy(7, 64, 4, **flags, heard=heard, parameters=1234567))
    monkeypatch.setattr(models, "read_lineup", lambda _: [store("w2v").checkpoint])
    monkeypatch.setattr(models, "load_encoder", lambda _: encoder)
    monkeypatch.setattr(models, "checkpoint_fingerprint", lambda _: "0123456789abcdef")
    assert cli.main(["checkpoints"]) == 0
    head, row = capsys.readouterr().out.splitlines()
    titles = "name family size layers neurons heads layers are final norm normalised mask features parameters"
    assert head.split() == [*titles.split(), *["finetuned", "from", "seed", "of", "weights", "fingerprint"]]
    flagged = ["LayerNorm", "no", "yes", "no", "group"]
    assert row.split() == ["w2v", "w2v", "s", "7", "64", "4", *flagged, "1,234,567", "trained", "0123456789ab"]
