"""``python -m sslsim`` is ``sslsim``."""

from __future__ import annotations

import sys

from sslsim.cli import main

if __name__ == "__main__":
    sys.exit(main())
