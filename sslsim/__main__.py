"""``python -m sslsim`` is ``sslsim``."""

import sys

from sslsim.cli import main

if __name__ == "__main__":
    sys.exit(main())
