"""The records in a reports folder: run.json of one run, sweep.json of several."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sslsim.resources import write_text

FORMAT = 2
SWEEP = "sweep.json"


def read(file: Path) -> dict[str, Any]:
    """Return the content of run.json or sweep.json, or nothing when it is missing, broken or of another format."""
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return content if content["format"] == FORMAT else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def write(file: Path, content: Mapping[str, Any]) -> None:
    """Write run.json or sweep.json, whole or not at all."""
    write_text(file, json.dumps(content, indent=1, ensure_ascii=False, default=str) + "\n")
