"""Rows whose columns, turns and roles have other names than a format's: `data.columns` and `data.roles`.

A row is renamed before its format converts it, and what is wrong with it is told in the file's names.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from packtrain.config import DataConfig
from packtrain.config.columns import COLUMNS, IN_TURNS, formats_with
from packtrain.data.formats import FORMATS, Conversation, detect_format, to_conversation, with_system_column
from packtrain.data.messages import SHAREGPT_ROLES, Problem
from packtrain.data.rows import BadRow, Row, shown_name, shown_names
from packtrain.errors import DataError

_FIELD = re.compile(r"(?P<column>[a-z_]+)(?P<index>\[\d+\])?(?P<key>\.[a-z_]+)?(?P<rest>.*)", re.DOTALL)
#: Columns that may hold a list of turns.
_TURNS = ("messages", "conversations", "prompt", "completion")
#: What ShareGPT's dumps call these keys of a turn.
_SHAREGPT = {"role": "from", "content": "value"}


@dataclass(frozen=True)
class Columns:
    names: Mapping[str, str]
    """A format's column -> the file's."""
    turns: Mapping[str, str]
    """A turn's key -> the file's."""
    roles: Mapping[str, str]
    """The file's role -> ours."""

    @classmethod
    def of(cls, config: DataConfig) -> Columns:
        roles = {
            name: role
            for role, names in config.roles.items()
            for name in ([names] if isinstance(names, str) else names)
        }
        return cls(
            {ours: theirs for ours, theirs in config.columns.items() if ours not in IN_TURNS},
            {ours: theirs for ours, theirs in config.columns.items() if ours in IN_TURNS},
            roles,
        )

    def detect(self, fields: dict[str, Any]) -> str:
        """The row's format: of those that have all columns that are named. Errors: DataError."""
        if not self.names and not self.turns:
            return detect_format(fields)
        possible = formats_with({**self.names, **self.turns})  # type: ignore[dict-item]
        known = {column for name in possible for column in COLUMNS[name]}
        renamed = self._renamed_columns(fields)
        for name in possible:
            if all(column in renamed for column in FORMATS[name].required):
                return name
        have = shown_names(list(fields)) if fields else "none"
        wanted = "; ".join(f"{name} wants {FORMATS[name]}" for name in possible)
        raise DataError(
            f"the columns found ({have}) are of no format that data.columns leaves: {wanted}",
            hint=f"name the file's columns in data.columns, for {', '.join(sorted(known))}",
        )

    def fit(self, fields: dict[str, Any]) -> bool:
        """Whether the row has any of the names, or nothing but roles is named."""
        if not self.names and not self.turns:
            return True
        return not (
            fields.keys().isdisjoint(self.names.values())
            and set(_keys_of_turns(fields)).isdisjoint(self.turns.values())
        )

    def conversation(self, row: Row, format: str) -> Conversation:
        """Errors: BadRow, with the file's names."""
        if not self.names and not self.turns and not self.roles:
            return to_conversation(row, format)
        for ours in FORMATS[format].required:
            theirs = self.names.get(ours)
            if theirs is not None and theirs not in row.fields:
                raise BadRow(row.place, shown_name(theirs), _missing(ours, theirs, row.fields))
        fields = self.renamed(row.fields)
        try:
            made = to_conversation(Row(row.place, fields), format)
            # Only where it is named: a column of that name may be anything in these formats.
            named = "system" in self.names and "system" not in FORMATS[format].optional
            return with_system_column(made, fields) if named else made
        except Problem as problem:
            raise BadRow(row.place, self._shown(problem.field), problem.problem) from None
        except BadRow as bad:
            raise BadRow(bad.place, self._shown(bad.field), bad.problem) from None

    def renamed(self, fields: dict[str, Any]) -> dict[str, Any]:
        """With the format's names."""
        made = self._renamed_columns(fields)
        if self.turns or self.roles:
            for column in _TURNS:
                if isinstance(made.get(column), list):
                    made[column] = [self._renamed_turn(turn) for turn in made[column]]
        return made

    def foreign(self, fields: dict[str, Any]) -> dict[str, Any]:
        """The reverse of :meth:`renamed`: a row of a format as the file would have it."""
        made = {self.names.get(column, column): value for column, value in fields.items()}
        made |= {theirs: "" for theirs in self.names.values() if theirs not in made}
        for column, value in made.items() if self.turns else ():
            if isinstance(value, list):
                made[column] = [self._foreign_turn(turn) for turn in value]
        return made

    def _foreign_turn(self, turn: dict[str, Any]) -> dict[str, Any]:
        ours = {theirs: key for key, theirs in _SHAREGPT.items()}
        return {self.turns.get(ours.get(key, key), key): value for key, value in turn.items()}

    def _renamed_columns(self, fields: dict[str, Any]) -> dict[str, Any]:
        # What is named is nothing else, and what has a format's name and is not named is not meant.
        gone = {*self.names, *self.names.values()}
        made = {column: value for column, value in fields.items() if column not in gone}
        made |= {ours: fields[theirs] for ours, theirs in self.names.items() if theirs in fields}
        return made

    def _renamed_turn(self, turn: Any) -> Any:
        if not isinstance(turn, dict):
            return turn
        gone = {*self.turns, *self.turns.values()}
        made = {key: value for key, value in turn.items() if key not in gone}
        made |= {ours: turn[theirs] for ours, theirs in self.turns.items() if theirs in turn}
        if self.turns.keys() & _SHAREGPT.keys():  # one of the two is named: both have one spelling
            for ours, theirs in _SHAREGPT.items():
                value = made.pop(theirs, None)
                if ours not in self.turns and value is not None:
                    made.setdefault(ours, value)
        for key in ("role", "from"):
            if isinstance(said := made.get(key), str):
                made[key] = self._role(said)
        return made

    def _role(self, said: str) -> str:
        if said in self.roles:
            return self.roles[said]
        # Whoever names the key has a dump of other names, too; a call of a function is told by its role.
        common = {} if said == "function_call" or "role" not in self.turns else SHAREGPT_ROLES
        return common.get(said, said)

    def _shown(self, field: str) -> str:
        match = _FIELD.fullmatch(field)
        if match is None:
            return field
        column, index, key = match["column"], match["index"] or "", (match["key"] or "").removeprefix(".")
        if index and key in self.turns:
            key = shown_name(self.turns[key])
        theirs = shown_name(self.names[column]) if column in self.names else column
        return f"{theirs}{index}{'.' if key else ''}{key}{match['rest']}"


@dataclass
class Unseen:
    """Names of `data.columns` that no row of a file has: a slip of the pen, mostly."""

    columns: Columns
    _left: dict[str, dict[str, str]] = field(default_factory=dict)
    """File -> what is still to be seen."""
    _first: dict[str, Row] = field(default_factory=dict)

    def look(self, rows: Iterable[Row]) -> None:
        """Note what the rows have."""
        wanted = {**self.columns.names, **self.columns.turns}
        for row in rows if wanted else ():
            file = row.place.rpartition(":")[0]
            left = self._left.setdefault(file, dict(wanted))
            self._first.setdefault(file, row)
            if left:
                keys = {*row.fields, *_keys_of_turns(row.fields)}
                for ours in [ours for ours, theirs in left.items() if theirs in keys]:
                    del left[ours]

    def check(self) -> None:
        """DataError for the first file with a name that no row had."""
        for ours, problem in self._problems():
            raise DataError(
                problem, hint=f"name the file's own in data.columns.{ours}, or leave that key out"
            )

    def problems(self) -> list[str]:
        """A sentence for each name that no row had."""
        return [problem for _, problem in self._problems()]

    def _problems(self) -> Iterator[tuple[str, str]]:
        for file, left in self._left.items():
            for ours, theirs in left.items():
                fields = self._first[file].fields
                problem = _missing(
                    ours, theirs, fields if ours in self.columns.names else _keys_of_turns(fields)
                )
                yield ours, f"{file}: {shown_name(theirs)}: {problem}"


def _keys_of_turns(fields: Mapping[str, Any]) -> list[str]:
    """The keys of all turns of a row, in their order."""
    turns = [turn for value in fields.values() if isinstance(value, list) for turn in value]
    return list(dict.fromkeys(key for turn in turns if isinstance(turn, dict) for key in turn))


def _missing(ours: str, theirs: str, fields: Iterable[str]) -> str:
    names = list(fields)
    near = difflib.get_close_matches(theirs, names, n=1)
    meant = f"; did you mean {shown_name(near[0])}?" if near else ""
    have = shown_names(names) if names else "nothing"
    return f"is missing, which data.columns.{ours} names (the row has {have}){meant}"
