"""FITS header cards, parsed lazily: a stamp's header is mostly never looked at."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

__all__ = ["CARD", "Header", "parse_header"]

CARD = 80


class Header:
    """The cards of one HDU; values are parsed when they are asked for.

    Equal header blocks share one object (`parse_header`).
    """

    __slots__ = ("_index", "_text", "_values")

    def __init__(self, raw: bytes) -> None:
        self._text = raw.decode("latin-1")
        self._index: dict[str, int] | None = None
        self._values: dict[str, tuple[Any, str]] = {}

    def _cards(self) -> dict[str, int]:
        if self._index is None:
            text = self._text
            index: dict[str, int] = {}
            for start in range(0, len(text), CARD):
                key = text[start : start + 8].rstrip()
                if key == "END":
                    break
                if key == "HIERARCH":
                    key = text[start + 9 : start + CARD].partition("=")[0].strip().upper()
                elif text[start + 8 : start + 10] != "= ":
                    continue
                index[key] = start
            self._index = index
        return self._index

    def keys(self) -> list[str]:
        """Return the keywords that have values."""
        return list(self._cards())

    def raw_cards(self, keys: frozenset[str]) -> tuple[str, ...]:
        """Return the text of the cards of some keywords, in the header's order."""
        text = self._text
        return tuple([text[start : start + CARD] for key, start in self._cards().items() if key in keys])

    def __contains__(self, key: str) -> bool:
        return key in self._cards()

    def card(self, key: str) -> tuple[Any, str]:
        """Return (value, comment) of a keyword; of repeated ones the last; (None, "") if absent or undefined."""
        known = self._values.get(key)
        if known is None:
            known = self._values[key] = self._card(key)
        return known

    def _card(self, key: str) -> tuple[Any, str]:
        start = self._cards().get(key)
        if start is None:
            return None, ""
        card = self._text[start : start + CARD]
        body = card[10:] if card[8:10] == "= " else card.partition("=")[2]
        value, comment = _parse(body)
        while isinstance(value, str) and value.endswith("&"):
            start += CARD
            more = self._text[start : start + CARD]
            if not more.startswith("CONTINUE"):
                break
            text, comment = _parse(more[8:])
            value = value[:-1] + str(text or "")
        return value, comment

    def get(self, key: str, default: Any = None) -> Any:
        """Return the value (str, bool, int or float) of a keyword, or `default`."""
        value = self.card(key)[0]
        return default if value is None else value

    def number(self, key: str) -> float | None:
        """Return a finite number, or None if the keyword is absent or holds something else."""
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            return None
        return float(value)

    def text(self, key: str) -> str:
        """Return the value as stripped text, "" if absent."""
        return str(self.get(key, "")).strip()

    def padded(self) -> str:
        """Return all cards as text, for astropy."""
        return self._text

    @property
    def name(self) -> str:
        """EXTNAME in upper case, "" if absent."""
        return self.text("EXTNAME").upper()


@lru_cache(maxsize=512)
def parse_header(raw: bytes) -> Header:
    """Return the header held by whole header blocks; equal blocks give the same object."""
    return Header(raw)


def _parse(text: str) -> tuple[Any, str]:
    body = text.lstrip()
    if not body.startswith("'"):
        value, _, comment = body.partition("/")
        return _scalar(value.strip()), comment.strip()
    end = 1
    while True:
        end = body.find("'", end)
        if end < 0:
            return body[1:].rstrip(), ""
        if body[end + 1 : end + 2] != "'":
            break
        end += 2
    return body[1:end].replace("''", "'").rstrip(), body[end + 1 :].partition("/")[2].strip()


def _scalar(word: str) -> Any:
    if word in ("T", "F"):
        return word == "T"
    try:
        return int(word)
    except ValueError:
        pass
    try:
        return float(word.replace("D", "E").replace("d", "e"))
    except ValueError:
        return word or None
