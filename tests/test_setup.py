"""What a newcomer relies on: one set of requirements said in three places, and make targets that exist."""

import re
import tomllib
from pathlib import Path

import sslsim

ROOT = Path(__file__).parents[1]
CONDA_NAMES = {
    "huggingface_hub": "huggingface-hub",
    "jupyter_client": "jupyter-client",
    "matplotlib-base": "matplotlib",
    "pysoundfile": "soundfile",
    "pytorch": "torch",
    "soxr-python": "soxr",
}


def content():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_environment_yml_asks_for_what_pyproject_does():
    text = (ROOT / "environment.yml").read_text()
    listed = re.findall(r"^  - ([a-z0-9_-]+)(.*)$", text, re.MULTILINE)
    conda = {
        CONDA_NAMES.get(name, name) + bounds for name, bounds in listed if name not in ("python", "pip", "conda-forge")
    }
    assert conda == set(content()["project"]["dependencies"])
    assert ("python", content()["project"]["requires-python"]) in listed


def test_constraints_pin_every_requirement():
    pinned = re.findall(r"^([a-z0-9_.-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    project = content()["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["test"]]
    assert {re.match(r"[a-z0-9-]+", name)[0] for name in wanted} <= {name.replace("_", "-") for name in pinned}


def test_every_package_goes_into_the_wheel():
    packages = {"sslsim." + file.parent.name for file in ROOT.glob("sslsim/*/__init__.py")}
    assert {"sslsim", "sslsim._data", "sslsim._notebooks", *packages} == set(
        content()["tool"]["setuptools"]["packages"]
    )


def test_readme_commands_are_make_targets():
    readme, makefile = (ROOT / "README.md").read_text(), (ROOT / "Makefile").read_text()
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", readme, re.MULTILINE))
    assert {"report", "test"} <= named
    assert named <= set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))


def test_public_names_are_all_there():
    assert [name for name in sslsim.__all__ if getattr(sslsim, name, None) is None] == []
    assert set(sslsim.__all__) <= set(dir(sslsim))
