"""ROUGE-L and exact match, against values from the paper's definition."""

from __future__ import annotations

import pytest

from packtrain.evaluate.metrics import longest_common, rouge_l, score_answers, words


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        # The paper's own example: 3/4 and 2/4 for precision and recall alike.
        ("police kill the gunman", "police killed the gunman", 0.75),
        ("the gunman kill police", "police killed the gunman", 0.5),
        ("the same", "The same.", 1.0),
        ("", "something", 0.0),
        ("something", "", 0.0),
        ("", "", 0.0),
        ("서울은 수도", "서울은 대한민국의 수도", 0.8),
        ("a b", "b a b a", 2 * 2 / 6),
    ],
)
def test_rouge_l(answer: str, reference: str, expected: float) -> None:
    assert rouge_l(answer, reference) == pytest.approx(expected)


def test_longest_common_subsequence_against_all_of_them() -> None:
    first, second = list("abcbdab"), list("bdcaba")
    kept = {
        tuple(sign for place, sign in enumerate(first) if bits >> place & 1)
        for bits in range(2 ** len(first))
    }

    def is_within(some: tuple[str, ...]) -> bool:
        rest = iter(second)
        return all(sign in rest for sign in some)

    assert longest_common(first, second) == max(len(some) for some in kept if is_within(some)) == 4


def test_words_of_all_scripts() -> None:
    assert words("Straße, 3.14 – 한국어!") == ["straße", "3", "14", "한국어"]


def test_means_over_answers() -> None:
    scores = score_answers([" one two ", "three"], ["one two", "four five"])
    assert scores.to_json() == {
        "answers": 2,
        "exact_match": 0.5,
        "rouge_l": 0.5,
        "words": 1.5,
        "reference_words": 2.0,
    }
