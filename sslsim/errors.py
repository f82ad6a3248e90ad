"""The exceptions that sslsim raises on purpose."""

from collections.abc import Iterable
from difflib import get_close_matches


class SslsimError(ValueError):
    """A problem the user can mend; the message says what failed and what to do."""


class Unanswered(SslsimError):
    """A question that the chosen checkpoints leave open: a notebook ends here, and its run has not failed."""

    def _render_traceback_(self) -> list[str]:
        """Return what a notebook shows: the message alone, since there is nothing to mend in the code."""
        return [str(self)]


def close_match(name: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for what a user wrote or, when nothing is close, the list of `known` names."""
    known = sorted(known)
    matches = get_close_matches(name, known, n=1, cutoff=0.5)
    return f"; did you mean {matches[0]!r}?" if matches else f"; known: {', '.join(known) or 'none'}"
