"""The pieces of a report's page: style, figures with intervals, tables, embedded pictures."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

__all__ = ["STYLE", "figure", "note", "number", "picture", "simple_page", "table", "warning"]

HUGE = 1e7
"""From here on numbers are shown as powers of ten."""
MOST = 7
"""Decimals."""
STYLE = """
:root { --ink:#1b2a41; --soft:#5b677a; --line:#dfe4ec; --blue:#1f6fb4; --paper:#fff; --back:#f4f6f9 }
* { box-sizing:border-box } body { margin:0; background:var(--back); color:var(--ink);
font:15px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",sans-serif }
header { background:var(--ink); color:#fff; padding:26px 0 } header p { margin:4px 0 0; color:#b9c4d6 }
main, header > div { max-width:1180px; margin:0 auto; padding:0 22px } h1 { margin:0; font-size:25px; font-weight:650 }
section { background:var(--paper); border:1px solid var(--line); border-radius:10px; padding:18px 22px; margin:20px 0 }
h2 { font-size:19px; margin:0 0 4px } h3 { font-size:15px; margin:20px 0 4px }
p.note, small { color:var(--soft); font-size:13px }
p.note { margin:2px 0 10px; max-width:900px } img { max-width:100%; display:block; margin:8px 0 }
.wide { overflow-x:auto } table { border-collapse:collapse; font-size:13.5px;
font-variant-numeric:tabular-nums; margin:6px 0 }
th, td { text-align:right; padding:4px 10px; border-bottom:1px solid var(--line); white-space:nowrap;
vertical-align:top }
th { color:var(--soft); font-weight:600 } th:first-child, td:first-child { text-align:left }
td.text { text-align:left; white-space:normal }
.cards { display:flex; flex-wrap:wrap; gap:12px; margin:18px 0 0 }
.card { background:var(--paper); border:1px solid var(--line);
border-radius:10px; padding:12px 16px; min-width:150px; flex:1 }
.card b { display:block; font-size:23px; font-weight:650; color:var(--blue) }
.warn { border-left:4px solid #d1651a; padding:6px 12px; background:#fdf4ec; margin:10px 0 }
nav a { color:#b9c4d6; margin-right:14px; font-size:13px }
"""


def number(value: Any, digits: int = 3) -> str:
    """Return a number as text; a dash for none."""
    if value is None:
        return "&ndash;"
    return f"{value:,.0f}" if 1e5 <= abs(value) < HUGE else f"{value:.{digits}g}"


def figure(found: Mapping[str, Any] | None, digits: int = 3) -> str:
    """Return a figure with its 95 % interval; as many decimals as the interval's width makes sensible.

    The value keeps two significant digits unless it is lost in its interval, a hundredth of it or less.  A lower end
    without an upper one, which is infinite, is shown as "> low".
    """
    value, low, high = (None if found is None else found.get(key) for key in ("value", "low", "high"))
    if low is not None and high is None:
        above = f"&gt;&thinsp;{number(low, digits)}"
        return above if value is None else f"{number(value, digits)} <small>{above}</small>"
    if value is None or low is None or high is None:
        return number(value, digits)
    decimals = _decimals(value, high - low)
    if decimals == MOST or max(abs(value), abs(low), abs(high)) >= HUGE:
        return f"{value:.{digits}g} <small>{low:.2g}&thinsp;&hellip;&thinsp;{high:.2g}</small>"
    return f"{value:.{decimals}f} <small>{low:.{decimals}f}&thinsp;&hellip;&thinsp;{high:.{decimals}f}</small>"


def _decimals(value: float, width: float) -> int:
    """Return the decimals of a value whose interval has a width; `MOST` where powers of ten are shorter."""
    if abs(value) >= 100:
        return 0
    if width == 0:
        return 3
    decimals = 1
    while decimals < MOST and width < 10 ** (1 - decimals) * 0.5:
        decimals += 1
    if abs(value) > width / 100:
        decimals = max(decimals, 1 - math.floor(math.log10(abs(value))))
    return min(decimals, MOST)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], text: frozenset[int] = frozenset()) -> str:
    """Return a table of ready cells; the columns in `text` hold words."""
    top = "".join(f"<th>{cell}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(f"<td{' class=text' if k in text else ''}>{cell}</td>" for k, cell in enumerate(row)) + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def picture(pictures: Mapping[str, bytes], name: str, words: str) -> str:
    """Return an embedded picture, or nothing if it was not drawn."""
    if name not in pictures:
        return ""
    data = base64.b64encode(pictures[name]).decode("ascii")
    return f'<img alt="{escape(words)}" src="data:image/png;base64,{data}">'


def note(text: str) -> str:
    """Return a line of explanation."""
    return f'<p class="note">{text}</p>'


def warning(text: str) -> str:
    """Return a line of plain words that a reader must not miss."""
    return f'<p class="warn">{escape(text)}</p>'


def simple_page(title: str, caption: str, body: str) -> str:
    """Return a page of one section."""
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body>'
        f"<header><div><h1>{escape(title)}</h1><p>{escape(caption)}</p></div></header>"
        f"<main><section>{body}</section></main></body></html>\n"
    )
