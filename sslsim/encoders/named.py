"""Lists whose items go by name as well as by place, and tables of what a notebook shows."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from typing import Any, Self, SupportsIndex, TypeVar, overload

from sslsim.errors import SslsimError, close_match

T = TypeVar("T")


class Named(list[T]):
    """A list of checkpoints, or what was made from them, whose names complete with Tab.

    A name stands for its place, ``lineup["my-asr"]``, and as an attribute, with ``_`` for what Python's names may not
    hold, ``lineup.my_asr``.

    Attributes
    ----------
    PLACE : str
        What the list is, for errors.
    """

    PLACE = "this list"

    @staticmethod
    def name_of(item: T) -> str:
        """Name of an item."""
        raise NotImplementedError

    @overload
    def __getitem__(self, key: SupportsIndex | str) -> T: ...

    @overload
    def __getitem__(self, key: slice) -> Self: ...

    def __getitem__(self, key: SupportsIndex | slice | str) -> T | Self:
        if isinstance(key, slice):
            return type(self)(super().__getitem__(key))
        if not isinstance(key, str):
            return super().__getitem__(key)
        named = {self.name_of(item): item for item in self}
        if key not in named:
            raise SslsimError(f"no checkpoint {key!r} in {self.PLACE}{close_match(key, named)}")
        return named[key]

    def __getattr__(self, name: str) -> T:
        for spelled in (str, _attribute):  # a name as it is before one that is spelled another way
            for item in self:
                if spelled(self.name_of(item)) == name:
                    return item
        raise AttributeError(f"no checkpoint {name!r} in {self.PLACE}")

    def __dir__(self) -> list[str]:
        own = list(super().__dir__())  # a checkpoint called sort goes by its name alone
        return own + [name for item in self if (name := _attribute(self.name_of(item))) not in own]

    def _ipython_key_completions_(self) -> list[str]:
        return [self.name_of(item) for item in self]


def _attribute(name: str) -> str:
    """Return a name as Python can spell it."""
    return re.sub(r"\W|^(?=\d)", "_", name)


def as_html(columns: Sequence[str], rows: Sequence[Mapping[str, Any]], caption: str = "") -> str:
    """Return rows as an HTML table, everything escaped; what is None stays empty."""
    head = "".join(f'<th scope="col">{html.escape(column.replace("_", " "))}</th>' for column in columns)
    body = "".join(f"<tr>{''.join(_cell(row[column]) for column in columns)}</tr>" for row in rows)
    title = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    return f"<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cell(value: Any) -> str:
    return f"<td>{'' if value is None else html.escape(str(value))}</td>"
