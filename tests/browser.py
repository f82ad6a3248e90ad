"""Open pages in headless Chromium with the network cut, over its debugging protocol."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import websocket  # websocket-client, which JupyterLab brings along

WIDTHS = (1280, 390)


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
                return message.get("result", {})
            self.events.append(message)

    def wait(self, method: str) -> None:
        """Wait for an event, which may have come already."""
        while not any(event.get("method") == method for event in self.events):
            self.events.append(json.loads(self.socket.recv()))

    def value(self, expression: str) -> Any:
        """Evaluate JavaScript in the page."""
        return self.send("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")


@contextmanager
def chromium() -> Iterator[Page]:
    """Start a browser that resolves no name, and yield its tab."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not program:
        raise SystemExit("check_reports: no chromium found")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-port=0"]
        options += [f"--user-data-dir={profile}", "--host-resolver-rules=MAP * ~NOTFOUND", "about:blank"]
        process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            yield Page(_tab(Path(profile) / "DevToolsActivePort"))
        finally:
            process.terminate()
            process.wait(20)


def _tab(port_file: Path) -> str:
    for _ in range(300):
        if port_file.is_file() and "\n" in (text := port_file.read_text()):
            listing = urllib.request.urlopen(f"http://127.0.0.1:{text.splitlines()[0]}/json/list", timeout=20)
            return next(tab["webSocketDebuggerUrl"] for tab in json.load(listing) if tab["type"] == "page")
        time.sleep(0.1)
    raise SystemExit("check_reports: chromium did not start")


def check_browser(pages: Sequence[Path], shots: Path) -> list[str]:
    """Load each page at each width; return requests, console messages and sideways scrolling as problems."""
    shots.mkdir(parents=True, exist_ok=True)
    problems: list[str] = []
    with chromium() as tab:
        for domain in ("Page", "Network", "Runtime", "Log"):
            tab.send(f"{domain}.enable")
        tab.send("Network.emulateNetworkConditions", offline=True, latency=0, downloadThroughput=0, uploadThroughput=0)
        for width in WIDTHS:
            for path in pages:
                problems += [f"{path.name} at {width} px: {text}" for text in _open(tab, path, width, shots)]
    return problems


def _open(tab: Page, path: Path, width: int, shots: Path) -> Iterator[str]:
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    tab.send("Emulation.setDeviceMetricsOverride", **metrics)
    tab.events.clear()
    tab.send("Page.navigate", url=path.resolve().as_uri())
    tab.wait("Page.loadEventFired")
    scroll = tab.value("document.documentElement.scrollWidth")
    broken = tab.value("[...document.images].filter(i => !i.naturalWidth).length")
    height = min(int(tab.value("document.documentElement.scrollHeight")), 16000)
    clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
    shot = tab.send("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
    (shots / f"{path.stem}-{width}.png").write_bytes(base64.b64decode(shot["data"]))
    yield from _problems(tab.events, path)
    if scroll > width:
        yield f"scrolls sideways: {scroll} px wide"
    if broken:
        yield f"{broken} pictures do not load"


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
