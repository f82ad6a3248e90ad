"""Open pages in headless Chromium with the network cut, over its debugging protocol, and say what is wrong."""

from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import websocket  # websocket-client, which JupyterLab brings along

from sslsim.measures.registry import title_of

PROGRAM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
WIDTHS = (1280, 390)
MOST_BYTES = 8_000_000  # of a page with all that it embeds
PAPER = (8.27, 11.69)  # A4, in inches
MARGIN = 0.4  # of a printed page, in inches
TALL = 16_000  # pixels; Chromium paints no larger screenshot

AXE = """axe.run(document, {resultTypes: ["violations"], preload: false}).then(found => found.violations.flatMap(
    rule => rule.nodes.map(node => `${rule.id} (${rule.impact}): ${node.target.join(" ")}: `
        + `${[...node.any, ...node.all, ...node.none].map(check => check.message).join("; ")}`)))"""

# a sound plays when it has data at its first moment; muted, since no one pressed a key
SOUNDS = """Promise.all([...document.querySelectorAll("audio")].map(audio => new Promise(resolve => {
    const told = () => resolve(audio.error ? audio.error.message || `error ${audio.error.code}`
        : audio.readyState >= 2 && audio.duration > 0 ? "" : `readyState ${audio.readyState}`);
    for (const event of ["canplay", "error"]) audio.addEventListener(event, told, {once: true});
    setTimeout(told, 10000);
    audio.preload = "auto";
    audio.load();
})))"""

# what would be cut by the edge of the paper, or by the end of a page: Chromium keeps together what fits on one
CUT = """(() => {
    const problems = [], [width, height] = [innerWidth, innerHeight];
    for (const element of document.querySelectorAll("figure, img, svg, table, pre, math")) {
        const box = element.getBoundingClientRect();
        if (!box.width || !box.height) continue;
        const text = (element.alt || element.textContent).trim().replace(/\\s+/g, " ");
        const what = `<${element.localName}> ${text.slice(0, 50)}`;
        if (box.left < -1 || box.right > width + 1)
            problems.push(`${what}: from ${box.left.toFixed()} to ${box.right.toFixed()} px, the paper has ${width}`);
        const whole = ["figure", "img", "svg"].includes(element.localName);
        if (whole && box.height > height + 1)
            problems.push(`${what}: ${box.height.toFixed()} px tall, a page has ${height}`);
        const keeps = node => ["avoid", "avoid-page"].includes(getComputedStyle(node).breakInside);
        if (element.localName === "figure" && !keeps(element)) problems.push(`${what}: may break over two pages`);
    }
    return problems;
})()"""

# heads that do not sort their table, and maps that do not enlarge; axe then looks at what they made
WORK = """(() => {
    const problems = [];
    for (const head of document.querySelectorAll("thead th:first-of-type:has(button)")) {
        const rows = head.closest("table").tBodies[0].rows;
        const texts = () => [...rows].map(row => row.cells[head.cellIndex].textContent);
        const number = text => parseFloat(text.replace(/[,<]/g, ""));
        const compare = (a, b) => isNaN(number(a)) ? a.localeCompare(b) : number(a) - number(b);
        const before = texts();
        for (const [state, turned] of [["ascending", false], ["descending", true]]) {
            head.querySelector("button").click();
            const now = texts();
            const wanted = [...before].sort((a, b) => turned ? compare(b, a) : compare(a, b));
            if (head.getAttribute("aria-sort") !== state || now.join() !== wanted.join())
                problems.push(`${head.textContent}: not sorted ${state} but ${head.getAttribute("aria-sort")} ${now}`);
        }
    }
    for (const details of document.querySelectorAll(".enlarge"))
        if (!details.querySelector("tbody td[style]")) problems.push("a map does not enlarge the block of two models");
    return problems;
})()"""

# links that lead into what is folded, and do not open it
LEADS = """(async () => {
    const problems = [];
    for (const link of document.querySelectorAll(".toc a, td a[href^='#neuron']")) {
        for (const details of document.querySelectorAll("details")) details.open = false;
        link.click();
        await new Promise(resolve => setTimeout(resolve, 20));
        const target = document.getElementById(link.hash.slice(1));
        if (!target.checkVisibility() || target.closest("details")?.open === false)
            problems.push(`${link.hash} stays folded`);
    }
    for (const panel of document.querySelectorAll(".cells")) { // a cell of the first row leads to its neurons
        const [row] = document.querySelectorAll("tr[id^='pair ']");
        const [, x, y] = row?.id.match(/^pair (.+) in (.+)$/) ?? [];
        const { rows, columns } = JSON.parse(panel.dataset.cells);
        if (!rows.includes(x) || !columns.includes(y)) continue;
        const box = panel.getBoundingClientRect();
        const clientX = box.left + (columns.indexOf(y) + 0.5) / columns.length * box.width;
        const clientY = box.top + (rows.indexOf(x) + 0.5) / rows.length * box.height;
        if (!box.width) continue;
        panel.dispatchEvent(new PointerEvent("pointermove", { clientX, clientY }));
        panel.click();
        await new Promise(resolve => setTimeout(resolve, 20));
        if (!row.checkVisibility() || !row.matches(":target")) problems.push(`a cell does not lead to ${row.id}`);
    }
    // so do all cells of the same two models, to the first row of these
    const model = label => label.replace(/ layer \\d+$/, "");
    for (const panel of document.querySelectorAll(".cells")) {
        const [row] = document.querySelectorAll("tr[id^='pair ']");
        const [x, y] = row?.id.slice(5).split(" in ") ?? [];
        const { rows, columns } = JSON.parse(panel.dataset.cells);
        const i = rows.findLastIndex(label => x && model(label) === model(x));
        const j = columns.findLastIndex(label => x && model(label) === model(y));
        const box = panel.getBoundingClientRect();
        if (i < 0 || j < 0 || !box.width) continue;
        const clientX = box.left + (j + 0.5) / columns.length * box.width;
        const clientY = box.top + (i + 0.5) / rows.length * box.height;
        panel.dispatchEvent(new PointerEvent("pointermove", { clientX, clientY }));
        panel.click();
        await new Promise(resolve => setTimeout(resolve, 20));
        const ends = document.querySelector("tr:target")?.id.slice(5).split(" in ").map(model).sort().join();
        if (ends !== [x, y].map(model).sort().join()) problems.push(`a cell of ${x} and ${y} leads to ${ends}`);
    }
    for (const details of document.querySelectorAll(".enlarge")) { // and links of a block that is enlarged
        details.open = true;
        await new Promise(resolve => setTimeout(resolve, 20));
        for (const link of details.querySelectorAll("td a")) {
            link.click();
            await new Promise(resolve => setTimeout(resolve, 20));
            const row = document.getElementById(decodeURIComponent(link.hash.slice(1)));
            if (!row?.checkVisibility() || !row.matches(":target")) problems.push(`no link to ${link.hash}`);
        }
    }
    return problems;
})()"""

# what is said of a cell, and the cell to begin with
TOLD = "(tip => tip.hidden ? '' : tip.textContent)(document.querySelector('.tip'))"
ASK = """(() => {
  const panel = document.getElementsByClassName('cells')[NUMBER];
  panel.scrollIntoView({ block: 'center' });
  const box = panel.getBoundingClientRect();
  const table = panel.closest('figure').querySelector("a[href$='.csv']");
  const title = JSON.parse(panel.dataset.cells).title;
  return [box.left + 0.42 * box.width, box.top + 0.13 * box.height, title, table ? table.getAttribute('href') : ''];
})()"""
SAID = {  # columns of the table behind each number
    "similarity": ["value"],
    "share": ["value"],
    "interval": ["ci_low", "ci_high"],
    "chance": ["chance"],
    "p by t test": ["p_t"],
    "p in random bases": ["p_rotation"],
}


class Page:
    """One tab: commands are sent and answered in order, events in between are kept."""

    def __init__(self, url: str) -> None:
        self.socket = websocket.create_connection(url, timeout=60, suppress_origin=True)
        self.events: list[dict[str, Any]] = []
        self.number = 0

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its result."""
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == self.number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return message["result"]
            self.events.append(message)

    def wait(self, method: str) -> None:
        """Wait for an event, which may have come already."""
        while not any(event.get("method") == method for event in self.events):
            self.events.append(json.loads(self.socket.recv()))

    def value(self, expression: str) -> Any:
        """Evaluate JavaScript in the page, whatever the page's policy; of a promise return what it brings."""
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression[:60]}: {answer['result'].get('description')}")
        return answer["result"].get("value")

    def close(self) -> None:
        """End the connection."""
        self.socket.close()

    def screenshot(self, path: Path, **options: Any) -> None:
        """Save what the tab shows as a PNG."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png", **options)["data"]))


@contextmanager
def chromium() -> Iterator[Page]:
    """Start a browser that reaches nothing but this machine, by address, and yield its tab."""
    if not PROGRAM:
        raise SystemExit("no chromium found")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-port=0"]
        options += [f"--user-data-dir={profile}", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
        command = [PROGRAM, *options, "about:blank"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            with closing(Page(_tab(Path(profile) / "DevToolsActivePort"))) as page:
                yield page
        finally:
            process.terminate()
            process.wait(20)


def _tab(port_file: Path) -> str:
    for _ in range(300):
        if port_file.is_file() and "\n" in (text := port_file.read_text()):
            with urllib.request.urlopen(f"http://127.0.0.1:{text.splitlines()[0]}/json/list", timeout=20) as listing:
                return next(tab["webSocketDebuggerUrl"] for tab in json.load(listing) if tab["type"] == "page")
        time.sleep(0.1)
    raise SystemExit("chromium did not start")


def axe_source() -> str:
    """Return the source of axe-core, which axe-playwright-python brings along; of that package nothing is imported."""
    spec = find_spec("axe_playwright_python")
    if not spec or not spec.submodule_search_locations:
        raise SystemExit("no axe-core found: pip install axe-playwright-python")
    return (Path(spec.submodule_search_locations[0]) / "axe.min.js").read_text(encoding="utf-8")


def check_browser(pages: Sequence[Path], shots: Path) -> list[str]:
    """Load each page at each width, print it once, and return what is wrong with it; say how long pages took to load.

    Wrong are: requests, console messages, sideways scrolling, pictures that do not load, sounds that do not play,
    violations of axe-core's rules, cells of heatmaps that say other numbers than the table, what paper would cut, and
    more than `MOST_BYTES`.
    """
    shots.mkdir(parents=True, exist_ok=True)
    problems = [
        f"{path.name}: {size:,} bytes, at most {MOST_BYTES:,} are wanted"
        for path in pages
        if (size := path.stat().st_size) > MOST_BYTES
    ]
    loads: list[float] = []
    axe = axe_source()
    with chromium() as tab:
        for domain in ("Page", "Network", "Runtime", "Log"):
            tab.send(f"{domain}.enable")
        tab.send("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)
        for path in pages:
            for width in WIDTHS:
                found, load = _open(tab, path, width, shots, axe)
                problems += [f"{path.name} at {width} px: {text}" for text in found]
                loads.append(load)
            tab.send("Emulation.setDeviceMetricsOverride", width=1280, height=900, deviceScaleFactor=1, mobile=False)
            with_cells = tab.value("document.getElementsByClassName('cells').length")
            problems += [f"{path.name}: {text}" for k in range(with_cells) for text in _ask(tab, path, k)]
            problems += [f"{path.name} printed: {text}" for text in _print(tab, shots / f"{path.stem}.pdf")]
            n = tab.value("['img', 'audio'].map(name => document.getElementsByTagName(name).length)") + [with_cells]
            times = " and ".join(f"{load:.0f} ms at {width} px" for load, width in zip(loads[-2:], WIDTHS, strict=True))
            counts = f"{n[0]} pictures, {n[1]} sounds, {n[2]} heatmaps"
            print(f"{path.name}: {path.stat().st_size / 1e6:.1f} MB, {counts}, loads in {times}")
    print(f"slowest load {max(loads, default=0):.0f} ms, mean {sum(loads) / max(1, len(loads)):.0f} ms")
    return problems


def _open(tab: Page, path: Path, width: int, shots: Path, axe: str) -> tuple[list[str], float]:
    """Return what is wrong with a page at a width, and the milliseconds from navigation to its load event."""
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    tab.send("Emulation.setDeviceMetricsOverride", **metrics)
    tab.events.clear()
    tab.send("Page.navigate", url=path.resolve().as_uri())
    tab.wait("Page.loadEventFired")
    load = tab.value("performance.getEntriesByType('navigation')[0].loadEventStart")
    scroll = tab.value("document.documentElement.scrollWidth")
    broken = tab.value("[...document.images].filter(i => !i.naturalWidth).length")
    height = min(int(tab.value("document.documentElement.scrollHeight")), TALL)
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
    tab.screenshot(shots / f"{path.stem}-{width}.png", captureBeyondViewport=True, clip=clip)
    problems = [f"a sound does not play: {told}" for told in tab.value(SOUNDS) if told]
    problems += _problems(tab.events, path)
    if scroll > width:
        problems.append(f"scrolls sideways: {scroll} px wide")
    if broken:
        problems.append(f"{broken} pictures do not load")
    problems += tab.value(LEADS)
    tab.value("document.querySelectorAll('details').forEach(details => details.open = true)")  # code is looked at too
    tab.value("new Promise(resolve => setTimeout(resolve, 50))")  # until what opened has filled itself
    problems += tab.value(WORK)
    tab.value(axe)
    for scheme in ("light", "dark"):
        tab.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        tab.screenshot(shots / f"{path.stem}-{width}-{scheme}.png")
        problems += [f"axe, {scheme}: {told}" for told in tab.value(AXE)]
    return problems, load


def _ask(tab: Page, path: Path, k: int) -> Iterator[str]:
    """Read cells of a heatmap with the mouse and by keyboard, and hold what is said against the table that it draws."""
    x, y, title, table = tab.value(ASK.replace("NUMBER", str(k)))
    told = []
    tab.send("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
    told.append(tab.value(TOLD))
    tab.value(f"document.getElementsByClassName('cells')[{k}].focus()")
    for key in ("ArrowLeft", "ArrowDown"):
        tab.send("Input.dispatchKeyEvent", type="keyDown", key=key, code=key)
        told.append(tab.value(TOLD))
    tab.send("Input.dispatchKeyEvent", type="keyDown", key="Escape", code="Escape")
    if tab.value(TOLD):
        yield f"{title}: Escape does not close what is said of a cell"
    if len(set(told)) < 3:
        yield f"{title}: mouse and arrow keys say {told}"
    if table:
        frame = pd.read_csv(path.parent / table)
        yield from (f"{title}: {text}" for line in told for text in _compare(frame, title, line))


def _compare(frame: pd.DataFrame, title: str, line: str) -> Iterator[str]:
    pair = re.fullmatch(r"(.+) layer (\d+) in (.+) layer (\d+), [^:]+: (.+?)(?:; click or Enter .+)?", line)
    if not pair:
        yield f"cannot be understood: {line!r}"
        return
    names = [pair[1], int(pair[2]), pair[3], int(pair[4])]
    rows = frame[(frame[["model_x", "layer_x", "model_y", "layer_y"]] == names).all(axis=1)]
    rows = rows[rows.measure.map(title_of) == title]
    if rows.empty and pair[5] == "not compared":
        return
    if len(rows) != 1:
        yield f"{len(rows)} rows of the table are of {line!r}"
        return
    for part in pair[5].split(", "):
        name, less, *numbers = re.fullmatch(r"(.+?) (< )?(-?[\d.]+)(?: to (-?[\d.]+))?", part).groups()
        if less:
            numbers = ["0.0000"]
        for column, number in zip(SAID[name], numbers, strict=False):
            half = 0.51 * 10.0 ** -len(number.partition(".")[2])
            if not abs(rows[column].iat[0] - float(number)) <= half:  # nor may it be said of what is not there
                yield f"{line!r}, but {column} in the table is {rows[column].iat[0]}"


def _print(tab: Page, pdf: Path) -> list[str]:
    """Print the page that is open on A4, and return what the paper would cut."""
    width, height = (round(96 * (inches - 2 * MARGIN)) for inches in PAPER)
    tab.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
    dark = [{"name": "prefers-color-scheme", "value": "dark"}]
    tab.send("Emulation.setEmulatedMedia", media="print", features=dark)
    problems = tab.value(CUT)
    paper = tab.value("getComputedStyle(document.body).backgroundColor")
    if paper not in ("rgb(255, 255, 255)", "rgba(0, 0, 0, 0)"):
        problems.append(f"paper is {paper} where screens are dark")
    tab.send("Emulation.setEmulatedMedia", media="", features=[])
    size = dict(zip(("paperWidth", "paperHeight"), PAPER, strict=True))
    margins = {f"margin{side}": MARGIN for side in ("Top", "Bottom", "Left", "Right")}
    content = base64.b64decode(tab.send("Page.printToPDF", printBackground=True, **size, **margins)["data"])
    pdf.write_bytes(content)
    return problems if content.startswith(b"%PDF-") else [*problems, "no PDF"]


def _problems(events: Sequence[dict[str, Any]], path: Path) -> Iterator[str]:
    for event in events:
        parameters = event.get("params", {})
        if event["method"] == "Network.requestWillBeSent":
            url = parameters["request"]["url"]
            if not url.startswith("data:") and url != path.resolve().as_uri():
                yield f"asks for {url[:100]}"
        elif event["method"] == "Network.loadingFailed":
            yield f"a request failed: {parameters.get('errorText')}"
        elif event["method"] == "Log.entryAdded":
            yield f"console: {parameters['entry']['text'][:200]}"
        elif event["method"] in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown"):
            yield f"console: {json.dumps(parameters)[:200]}"
