"""What a row's loss counts, from a column of the row; and what the rows of a split count together."""

from __future__ import annotations

import math

import numpy as np

from packtrain.data.rows import BadRow, Row, shown_name, type_name
from packtrain.data.tokenized import TokenizedRows

#: A smaller or larger one is more likely a mistake, and next to others nothing is left of some.
LEAST, MOST = 1e-6, 1e6


def row_weight(row: Row, column: str | None) -> float:
    """1 where the row has none. Errors: BadRow for what is no number from 0."""
    value = row.fields.get(column) if column is not None else None
    if value is None or value == "":
        return 1.0
    field = shown_name(column)
    if isinstance(value, bool) or not isinstance(value, int | float | str):  # csv has nothing but text
        raise BadRow(row.place, field, _wrong(f"is {type_name(value)}"))
    try:
        weight = float(value)
    except OverflowError:
        weight = math.inf
    except ValueError:
        raise BadRow(row.place, field, _wrong("is text that is no number")) from None
    if math.isnan(weight):
        raise BadRow(row.place, field, _wrong("is not a number (NaN)"))
    if weight < 0:
        raise BadRow(row.place, field, _wrong("is negative"))
    if weight > MOST or 0 < weight < LEAST:
        raise BadRow(row.place, field, _wrong(f"is neither 0 nor between {LEAST:.6f} and {MOST:,.0f}"))
    return weight


def _wrong(problem: str) -> str:
    return f"{problem}; a row's weight is a number from 0 (data.weight_column: null ignores the column)"


def weight_range(rows: TokenizedRows) -> dict[str, float] | None:
    """``min``, ``mean`` and ``max`` of the rows' weights; None where each counts 1."""
    if rows.weights is None or not len(rows):
        return None
    found = {"min": np.min(rows.weights), "mean": np.mean(rows.weights), "max": np.max(rows.weights)}
    return {name: round(float(value), 6) for name, value in found.items()}
