"""What a newcomer relies on: README commands, and one set of requirements said in three places."""

import re
import tomllib

import sslsim

ROOT = sslsim.ROOT
CONDA_NAMES = {
    "huggingface_hub": "huggingface-hub",
    "jupyter_client": "jupyter-client",
    "matplotlib-base": "matplotlib",
    "pysoundfile": "soundfile",
    "pytorch": "torch",
    "soxr-python": "soxr",
}


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_environment_yml_asks_for_what_pyproject_does():
    text = (ROOT / "environment.yml").read_text()
    listed = re.findall(r"^  - ([a-z0-9_-]+)(.*)$", text, re.MULTILINE)
    conda = {
        CONDA_NAMES.get(name, name) + bounds for name, bounds in listed if name not in ("python", "pip", "conda-forge")
    }
    assert conda == set(project()["dependencies"])
    assert ("python", project()["requires-python"]) in listed


def test_constraints_pin_every_requirement():
    pinned = re.findall(r"^([a-z0-9_.-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    wanted = [*project()["dependencies"], *project()["optional-dependencies"]["test"]]
    assert {re.match(r"[a-z0-9-]+", name)[0] for name in wanted} <= {name.replace("_", "-") for name in pinned}


def test_readme_commands_are_make_targets():
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", readme, re.MULTILINE))
    assert {"report", "test"} <= named
    assert named <= set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))


def test_readme_links_and_figures_exist():
    links = re.findall(r"\]\(([^)#]+)\)", (ROOT / "README.md").read_text())
    assert [link for link in links if not link.startswith("http") and not (ROOT / link).exists()] == []


def test_public_names_are_all_there():
    for name in sslsim.__all__:
        assert getattr(sslsim, name) is not None
    assert callable(sslsim.compare)
    assert callable(sslsim.extract)
    assert sslsim.__version__ == project()["version"]
    assert set(sslsim.__all__) <= set(dir(sslsim))
