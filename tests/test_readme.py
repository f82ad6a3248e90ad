"""What the READMEs say is true of the code: numbers, commands, names, links, the table of measures.

``python tests/test_readme.py`` writes the table of measures anew.
"""

import ast
import importlib
import importlib.util
import operator
import re
import shlex
import sys
from pathlib import Path

import pandas as pd
import pytest

import sslsim
from sslsim.measures.registry import reference_table

ROOT = Path(__file__).parents[1]
READMES = [
    ROOT / "README.md",
    *(ROOT / name / "README.md" for name in ("sslsim", "notebooks", "data", "tests/benchmarks")),
]
MEASURES = re.compile(r"(<!-- measures: .*? -->\n).*?(<!-- end of measures -->)", re.DOTALL)


def markdown(table):
    lines = [list(table), ["---"] * table.shape[1], *table.itertuples(index=False, name=None)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def with_measures(text):
    table = reference_table()
    return MEASURES.sub(lambda m: m[1] + markdown(table.assign(name="`" + table.name + "`")) + m[2], text)


def blocks(path, language):
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def commands():
    """Every `sslsim ...` in a block or between backticks of a README, without those that only name a command."""
    for path in READMES:
        text = path.read_text(encoding="utf-8")
        found = re.findall(r"^(?:\.venv/bin/)?sslsim (.*)$", "\n".join(blocks(path, "")), re.MULTILINE)
        found += [" ".join(inline.split()) for inline in re.findall(r"`sslsim ([^`]+)`", text)]
        yield from {(path, command) for command in found if "ADDRESS" not in command}


def test_the_readme_keeps_to_a_page():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    assert max(map(len, lines)) < 120


def test_results_in_the_readme_are_those_of_a_report():
    spec = importlib.util.spec_from_file_location("overview", ROOT / "data/recipe/overview.py")
    overview = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(overview)
    table = overview.markdown(pd.read_csv(ROOT / "data/results.csv"))
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert overview.BEGIN + table + overview.END in text
    known = pd.read_csv(ROOT / "data/results.csv")
    assert overview.sentence(known) in " ".join(text.split())
    counts = known[(known.measure == "neuron_count") & known.relation.isin(overview.COLUMNS)].value
    assert f"{100 * counts.min():.1f} to {100 * counts.max():.1f} % of them have a partner" in " ".join(text.split())


@pytest.mark.parametrize("name", ["human", "reach"])
def test_what_the_data_card_says_of_runs_is_in_their_table(name, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "data/recipe")
    module = importlib.import_module(name)
    told = "\n".join(
        [f"<!-- {name} -->", *module.part(pd.read_csv(ROOT / f"data/{name}.csv")), f"<!-- end of {name} -->"]
    )
    assert told in (ROOT / "data/README.md").read_text(encoding="utf-8")


def test_the_table_of_measures_is_the_registry():
    text = (ROOT / "sslsim/README.md").read_text(encoding="utf-8")
    assert MEASURES.search(text)
    assert with_measures(text) == text


@pytest.mark.parametrize("path", READMES, ids=lambda path: str(path.parent.name))
def test_links_and_figures_exist(path):
    links = re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8"))
    assert [link for link in links if not link.startswith("http") and not (path.parent / link).exists()] == []


def test_commands_are_understood(capsys):
    from sslsim.cli import _parser

    seen = 0
    for path, command in commands():
        words = shlex.split(command, comments=True)
        try:
            _parser().parse_args(words)
        except SystemExit as error:
            raise AssertionError(f"{path.relative_to(ROOT)}: sslsim {command}: {capsys.readouterr().err}") from error
        seen += 1
    assert seen > 5


def test_the_functions_of_the_walk_exist():
    text = (ROOT / "sslsim/README.md").read_text(encoding="utf-8")
    named = re.findall(
        r"`([a-z]+\.[a-z_]+)\.([A-Za-z_.]+)`", text[text.index("## The walk") : text.index("## The measures")]
    )
    for module, name in named:
        operator.attrgetter(name)(importlib.import_module(f"sslsim.{module}"))
    assert len(named) > 20


def test_names_in_snippets_exist():
    for path in READMES:
        for block in blocks(path, "python"):
            for node in ast.walk(ast.parse(block)):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                    owner = {"sslsim": sslsim, "analysis": sslsim.analysis, "figures": sslsim.figures}.get(
                        node.value.id
                    )
                    assert owner is None or hasattr(owner, node.attr), f"{path}: {node.value.id}.{node.attr}"


def test_what_is_said_of_the_size_of_the_paper_was_measured():
    results = (ROOT / "tests/benchmarks/results.md").read_text(encoding="utf-8")
    section = results.split("## paper\n")[1].split("\n## ")[0]
    neurons, layers = (
        float(re.search(rf"^\| {name}: .*? \| ([\d.]+) min \|", section, re.M)[1]) for name in ("neurons", "layers")
    )
    for path in (ROOT / "README.md", ROOT / "tests/benchmarks/README.md"):
        text = " ".join(path.read_text(encoding="utf-8").split())
        assert f"{neurons} minutes for neurons and {layers} for layers" in text


if __name__ == "__main__":
    readme = ROOT / "sslsim/README.md"
    readme.write_text(with_measures(readme.read_text(encoding="utf-8")), encoding="utf-8")
    sys.exit(0)
