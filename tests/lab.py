"""Drive JupyterLab in a real Chromium, as a reader would: ``python tests/lab.py SHOTS``.

Opens a copy of the neurons notebook with small settings, runs all its cells from the menu, sees their figures, chooses
another layer in a menu under Explore, and sees another figure. Exits 1 if any of this does not happen.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from browser import Page, chromium

from sslsim.activations import Study
from sslsim.resources import NOTEBOOKS
from sslsim.speech import Subset

SMALL = {
    "checkpoints": ["hubert-small", "hubert-small-b", "w2v2-small"],
    "frames": 500,
    "permutations": 3,
    "rotations": 3,
    "blocks": 2,
    "study": "small.toml",
}
CHOOSE = """(() => {  // another layer, in a menu of the cell under Explore
    const menus = [...document.querySelectorAll(".jp-Notebook .widget-dropdown")];
    const layers = menus.find(menu => menu.textContent.trim().startsWith("layer")).querySelector("select");
    layers.scrollIntoView({block: "center"});
    layers.selectedIndex += 1;
    layers.dispatchEvent(new Event("change", {bubbles: true}));
})()"""
SETTINGS = {
    "apputils-extension/notification": {"fetchNews": "false"},  # nothing asks the reader anything
    "notebook-extension/tracker": {"windowingMode": "none"},  # cells out of sight are drawn too
}
PLACES = ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR")
PLACES += ("JUPYTERLAB_WORKSPACES_DIR",)

CELLS = """[...document.querySelectorAll(".jp-Notebook .jp-CodeCell")].map(cell => {
    const texts = type => [...cell.querySelectorAll(`.jp-OutputArea-output[data-mime-type$="${type}"]`)]
        .map(output => output.textContent.slice(0, 300));
    return {
        prompt: cell.querySelector(".jp-InputPrompt").textContent.trim(),
        failed: [...texts("error"), ...texts("stderr")],
        menus: cell.querySelectorAll(".widget-dropdown").length,
        images: [...cell.querySelectorAll(".jp-OutputArea-output img")].filter(i => i.naturalWidth).map(i => i.src),
    };
})"""
READY = """/Python 3/.test(document.querySelector(".jp-Toolbar-kernelName")?.textContent)
    && document.querySelector(".jp-Notebook-ExecutionIndicator")?.dataset.status === "idle"
    && document.querySelectorAll(".jp-Notebook .jp-CodeCell").length"""
PLACE = """(selector => {
    const found = [...document.querySelectorAll(selector)].find(element => element.textContent.includes(%(text)s));
    const box = found?.getBoundingClientRect();
    return box?.width ? [box.left + box.width / 2, box.top + box.height / 2] : null;
})(%(selector)s)"""
BAR = """(() => {
    const printed = [...document.querySelectorAll('.jp-OutputArea-output[data-mime-type$="stdout"]')];
    const bar = printed.findLast(output => /[1-9]\\d?%[|]/.test(output.textContent));
    bar?.scrollIntoView({block: "center"});
    return bar !== undefined;
})()"""


def copy(folder: Path) -> Path:
    """Copy the neurons notebook, with small settings, into a folder with a small study beside it; return the copy."""
    notebook = json.loads((NOTEBOOKS / "neurons.ipynb").read_text(encoding="utf-8"))
    cell = next(c for c in notebook["cells"] if "parameters" in c["metadata"].get("tags", []))
    text = "".join(cell["source"])
    for name, value in SMALL.items():
        text, times = re.subn(rf"(?m)^({name}: .*?) = .*?(  #.*)?$", rf"\g<1> = {value!r}\g<2>", text)
        assert times == 1, f"the notebook has no parameter {name}"
    cell["source"] = text.splitlines(keepends=True)
    path = folder / "notebooks" / "neurons.ipynb"
    path.parent.mkdir()
    Study(subset=Subset(max_seconds=60.0), queries=4).write(path.parent / "small.toml")
    path.write_text(json.dumps(notebook), encoding="utf-8")
    return path


@contextmanager
def lab(folder: Path) -> Iterator[tuple[str, str]]:
    """Serve a folder with JupyterLab, away from the user's settings, and yield its address and token.

    Afterwards server and kernels are gone, whatever happened.
    """
    own = folder / "jupyter"
    for name, content in SETTINGS.items():
        file = own / "JUPYTERLAB_SETTINGS_DIR" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content))
    token = secrets.token_hex(16)
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", "--port=0"]
    command += [f"--IdentityProvider.token={token}", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    with (folder / "server.log").open("wb") as log:
        environment = os.environ | {name: str(own / name) for name in PLACES}
        environment.pop("TQDM_DISABLE", None)  # a reader sees progress
        server = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)
        try:
            told = until(lambda: next((own / "JUPYTER_RUNTIME_DIR").glob("jpserver-*.json"), None), 60, "no server")
            yield json.loads(told.read_text())["url"], token
        finally:
            server.terminate()  # it shuts its kernels down
            with suppress(subprocess.TimeoutExpired):
                server.wait(30)
            server.kill()
            server.wait()
            for kernel in kernels(folder):
                with suppress(ProcessLookupError):
                    os.kill(kernel, signal.SIGKILL)


def kernels(folder: Path) -> list[int]:
    """Return the processes whose command names a file in a folder."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if str(folder).encode() in file.read_bytes():
                found.append(int(file.parent.name))
    return found


def until(ask: Callable[[], Any], seconds: float, problem: str) -> Any:
    """Ask again and again until the answer is true, and return it."""
    end = time.monotonic() + seconds
    while not (answer := ask()):
        if time.monotonic() > end:
            raise TimeoutError(f"{problem} within {seconds:.0f} s")
        time.sleep(0.2)
    return answer


def click(tab: Page, place: list[float], modifiers: int = 0) -> None:
    """Press and release the mouse."""
    for kind in ("mouseMoved", "mousePressed", "mouseReleased"):
        options = {"x": place[0], "y": place[1], "button": "left", "clickCount": 1, "modifiers": modifiers}
        tab.send("Input.dispatchMouseEvent", type=kind, **options)


def click_on(tab: Page, selector: str, text: str) -> None:
    """Click on the first element of a kind that holds a text, once it is there."""
    ask = PLACE % {"selector": json.dumps(selector), "text": json.dumps(text)}
    click(tab, until(lambda: tab.value(ask), 10, f"nothing says {text!r}"))


def drive(tab: Page, address: str, token: str, n_cells: int, shots: Path) -> Iterator[str]:
    """Do what a reader does, yield how long each thing took, and raise if it does not come about."""
    tab.send("Page.enable")
    tab.send("Emulation.setDeviceMetricsOverride", width=1400, height=1000, deviceScaleFactor=1, mobile=False)
    start = time.monotonic()
    tab.send("Page.navigate", url=f"{address}lab/tree/notebooks/neurons.ipynb?token={token}")
    until(lambda: tab.value(READY) == n_cells, 90, "the notebook does not open")
    yield f"opened after {time.monotonic() - start:.1f} s"

    start = time.monotonic()
    click_on(tab, ".lm-MenuBar-item", "Run")
    click_on(tab, '.lm-Menu-item[data-command="runmenu:run-all"]', "Run All Cells")
    until(lambda: tab.value(BAR), 60, "no progress bar")
    tab.screenshot(shots / "lab-running.png")
    until(lambda: finished(tab.value(CELLS)), 120, "not all cells have run")
    cells = tab.value(CELLS)
    figures = sum(len(cell["images"]) for cell in cells)
    assert figures >= 6, f"{figures} figures"
    yield f"{len(cells)} cells with {figures} figures ran in {time.monotonic() - start:.1f} s"

    before = next(cell["images"] for cell in cells if cell["menus"])  # of the cell under Explore
    start = time.monotonic()
    tab.value(CHOOSE)
    until(lambda: changed(tab.value(CELLS), before), 30, "the figure does not change")
    yield f"another figure {time.monotonic() - start:.1f} s after another layer was chosen"
    tab.screenshot(shots / "lab-explored.png")


def finished(cells: list[dict[str, Any]]) -> bool:
    """Say whether every cell has its number; raise if one failed."""
    failed = [text for cell in cells for text in cell["failed"]]
    assert not failed, f"a cell failed: {failed[0]}"
    return all(re.fullmatch(r"\[\d+\]:", cell["prompt"]) for cell in cells)


def changed(cells: list[dict[str, Any]], before: list[str]) -> bool:
    """Say whether the cell with menus shows other figures than before."""
    after = next(cell["images"] for cell in cells if cell["menus"])
    return finished(cells) and len(after) == len(before) and after != before


def main() -> int:
    """Run it, and say what happened."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("shots", type=Path, help="screenshots go here")
    shots = parser.parse_args().shots
    shots.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended then too
    with tempfile.TemporaryDirectory(prefix="sslsim-lab-") as name:
        folder = Path(name).resolve()
        notebook = json.loads(copy(folder).read_text(encoding="utf-8"))
        n_cells = sum(cell["cell_type"] == "code" for cell in notebook["cells"])
        try:
            with lab(folder) as (address, token), chromium() as tab:
                try:
                    for told in drive(tab, address, token, n_cells, shots):
                        print(f"lab: {told}", flush=True)
                except (AssertionError, TimeoutError):
                    tab.screenshot(shots / "lab-failed.png")
                    raise
        except (AssertionError, TimeoutError) as problem:
            print(f"lab: {problem}", file=sys.stderr)
            sys.stderr.write((folder / "server.log").read_text(errors="replace")[-2000:])
            return 1
        print(f"lab: {len(kernels(folder))} processes left")
    return 0


if __name__ == "__main__":
    sys.exit(main())
