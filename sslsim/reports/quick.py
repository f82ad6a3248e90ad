"""Import jsonschema without the part that takes seconds. Imported for its effect, before nbformat.

jsonschema compiles a grammar for the formats ``iri`` and ``iri-reference`` when it is imported beside the package
rfc3987_syntax, which JupyterLab brings along: 2 s of a processor in each process that opens a notebook, and no
notebook's schema has such a format. jsonschema does without when the package is not there.
"""

from __future__ import annotations

import sys
from typing import Any, cast

if "jsonschema" not in sys.modules and "rfc3987_syntax" not in sys.modules:
    modules = cast(dict[str, Any], sys.modules)
    modules["rfc3987_syntax"] = None  # Python's own way of saying: not installed
    try:
        import jsonschema  # noqa: F401
    finally:
        del modules["rfc3987_syntax"]
