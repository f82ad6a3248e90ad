"""Where things are, all relative to this file."""

from pathlib import Path

RECIPE = Path(__file__).resolve().parent
DATA = RECIPE.parent
BUILD = DATA / "build"  # generated, not committed
SPEECH = DATA / "speech"
CHECKPOINTS = DATA / "checkpoints"


def fresh(made: Path, source: Path) -> bool:
    """Say whether a file is there and no older than what it was made from."""
    return made.exists() and (not source.exists() or made.stat().st_mtime >= source.stat().st_mtime)
