"""How results look in a notebook: plain tables, in the notebook's own style, light or dark."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

_CELL = "text-align:left;vertical-align:top;white-space:pre-wrap"


def table(rows: Iterable[Sequence[Any]], head: Sequence[str] = ()) -> str:
    """HTML; all that is in it is text, and escaped."""
    from packtrain.evaluate.answers import printable

    def cells(values: Sequence[Any], tag: str) -> str:
        shown = "".join(f'<{tag} style="{_CELL}">{escape(printable(str(each)))}</{tag}>' for each in values)
        return f"<tr>{shown}</tr>"

    top = f"<thead>{cells(head, 'th')}</thead>" if head else ""
    return f"<table>{top}<tbody>{''.join(cells(row, 'td') for row in rows)}</tbody></table>"
