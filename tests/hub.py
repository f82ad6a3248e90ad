"""A hub on the loopback address: models are folders, and some of them have quirks."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import unquote

import huggingface_hub.constants
import pytest

COMMIT = "5" * 40
PAGE = b"<!DOCTYPE html><html><body>Accept the conditions of this network</body></html>"
# the status and code with which the hub refuses a model of this organisation
REFUSALS = {
    "gated": (403, "GatedRepo"),
    "private": (401, "RepoNotFound"),
    "missing": (404, "RepoNotFound"),
    "forbidden": (403, ""),
    "down": (503, ""),
}


class Hub:
    """Folders served as models: ``org/name`` is ``root/name``; of ``slow/name`` weights never come to an end."""

    def __init__(self, root: Path) -> None:
        self.root, self.asked, self.moved = root, list[str](), COMMIT
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.asked.append(self.path)
                answer(self, owner, unquote(self.path.split("?")[0]).strip("/").split("/"))

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                """Keep the terminal quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        Thread(target=self.server.serve_forever, daemon=True).start()

    def files(self) -> list[str]:
        """Return which files were downloaded, in their order."""
        return [path.split("/resolve/")[1].split("/", 1)[1] for path in self.asked if "/resolve/" in path]

    def lookups(self) -> int:
        """Return how often it was asked which commit a revision is."""
        return sum("/revision/" in path for path in self.asked)


def send(handler: BaseHTTPRequestHandler, status: int, content: bytes, **headers: str) -> None:
    handler.send_response(status)
    for name, value in ({"Content-Length": str(len(content))} | headers).items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    if handler.command == "GET":
        handler.wfile.write(content)


def answer(handler: BaseHTTPRequestHandler, hub: Hub, parts: list[str]) -> None:
    api = parts[0] == "api"
    parts = parts[2:] if api else parts
    if len(parts) < 4:  # what the client asks for besides
        return send(handler, 404, b"{}")
    organisation, name, kind, revision, *rest = parts
    folder = hub.root / name
    if organisation in REFUSALS:
        status, code = REFUSALS[organisation]
        return send(handler, status, b"{}", **({"X_Error_Code": code} if code else {}))
    if organisation == "portal":
        return send(handler, 200, PAGE)
    if revision not in ("main", hub.moved, COMMIT):
        return send(handler, 404, b"{}", X_Error_Code="RevisionNotFound")
    if api and kind == "tree":
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        rows = [
            {"type": "file", "path": str(p.relative_to(folder)), "size": p.stat().st_size, "oid": etag(p)}
            for p in paths
        ]
        return send(handler, 200, json.dumps(rows).encode(), Content_Type="application/json")
    if api:
        return send(handler, 200, json.dumps({"id": name, "sha": hub.moved, "siblings": []}).encode())
    file = folder.joinpath(*rest)
    if not file.is_file():
        return send(handler, 404, b"", X_Error_Code="EntryNotFound")
    content = file.read_bytes()
    headers = {"ETag": f'"{etag(file)}"', "X_Repo_Commit": hub.moved}
    if organisation != "slow" or file.suffix != ".safetensors" or handler.command == "HEAD":
        return send(handler, 200, content, **headers)
    send(handler, 200, b"", **headers, Content_Length=str(10**9))
    for _ in range(600):  # or until nobody listens
        handler.wfile.write(b"0" * 1000)
        time.sleep(0.1)
    return None


def etag(file: Path) -> str:
    return hashlib.sha1(file.read_bytes()).hexdigest()


@contextmanager
def serving(root: Path, cache: Path) -> Iterator[Hub]:
    """Serve the folders of `root`, to this process too, whose cache is then another."""
    hub = Hub(root)
    with pytest.MonkeyPatch.context() as patch:
        values = {"HF_HUB_OFFLINE": False, "ENDPOINT": hub.url, "HF_HUB_CACHE": str(cache)}
        values["HUGGINGFACE_CO_URL_TEMPLATE"] = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        for name, value in values.items():
            patch.setattr(huggingface_hub.constants, name, value)
        patch.setenv("SSLSIM_COMMITS", "{}")
        yield hub
    hub.server.shutdown()
    hub.server.server_close()
