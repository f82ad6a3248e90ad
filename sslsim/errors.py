"""The exceptions that sslsim raises on purpose."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from numbers import Integral
from typing import Any


class SslsimError(ValueError):
    """A problem the user can mend; the message says what failed and what to do."""

    def __str__(self) -> str:
        return written(super().__str__())

    def _render_traceback_(self) -> list[str]:
        """Return what a notebook shows: the message alone, since there is nothing to mend in the code."""
        return [str(self)]


class Unanswered(SslsimError):
    """A question that the chosen checkpoints leave open: a notebook ends here, and its run has not failed."""


def is_text(value: object) -> bool:
    """Return whether a value is text that any file can hold: it has no NUL, and nothing that is not UTF-8."""
    return isinstance(value, str) and not re.search("[\0\ud800-\udfff]", value)


def written(name: str) -> str:
    """Return a name as it can be written: what of it is not UTF-8 as numbers."""
    return name.encode(errors="backslashreplace").decode()


def check_whole(name: str, value: Any, least: int, none: str = "") -> None:
    """Raise unless a value is a whole number, `least` or more, or None where `none` says what that means."""
    if not (none and value is None) and (isinstance(value, bool) or not isinstance(value, Integral) or value < least):  # type: ignore[operator]
        choice = f", or None for {none}" if none else ""
        raise SslsimError(f"{name} is {value!r}; it must be a whole number, {least} or more{choice}")


def close_match(name: object, known: Iterable[str]) -> str:
    """Return ``"; did you mean 'x'?"`` for what a user wrote or, when nothing is close, the list of `known` names."""
    known = sorted(known)
    matches = get_close_matches(str(name), known, n=1, cutoff=0.5)
    return f"; did you mean {matches[0]!r}?" if matches else f"; known: {', '.join(known) or 'none'}"
