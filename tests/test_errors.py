"""The tree of errors agrees with the exit codes that the design promises to schedulers."""

from __future__ import annotations

import pytest

from packtrain import errors
from packtrain.errors import ALL, BY_EXIT_CODE, ConfigError, DataError, PacktrainError

#: Exit code -> tried again, from the design.
PROMISED = {
    2: "no",
    65: "no",
    69: "yes",
    70: "counted",
    71: "no",
    73: "no",
    74: "counted",
    75: "yes",
    76: "no",
    77: "no",
    78: "no",
    79: "no",
}


def test_each_promised_code_has_one_class() -> None:
    assert {code: kind.retry for code, kind in BY_EXIT_CODE.items()} == PROMISED
    assert len(ALL) == len(PROMISED)


def test_every_error_class_is_listed() -> None:
    classes = {
        value
        for value in vars(errors).values()
        if isinstance(value, type) and issubclass(value, PacktrainError)
    }
    assert classes - {PacktrainError} == set(ALL)


@pytest.mark.parametrize("kind", ALL)
def test_an_error_is_its_sentence_and_its_hint(kind: type[PacktrainError]) -> None:
    error = kind("run.yaml:1: is empty", hint="write one")
    assert str(error) == "run.yaml:1: is empty"
    assert error.hint == "write one"
    assert kind("x").hint is None


def test_what_a_user_did_is_a_value_error() -> None:
    assert issubclass(ConfigError, ValueError)
    assert issubclass(DataError, ValueError)
