"""How near an answer is to the one that was wanted: the same, or with how much in common."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

_WORDS = re.compile(r"\w+")


@dataclass(frozen=True)
class AnswerScores:
    """Means over answers and their references."""

    answers: int
    exact_match: float
    """Share of answers that are the reference, but for white space at the ends."""
    rouge_l: float
    """F1 of the longest common subsequence of words, 0 to 1."""
    words: float
    """In an answer, in the mean."""
    reference_words: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def score_answers(answers: Sequence[str], references: Sequence[str]) -> AnswerScores:
    """``answers`` may not be empty."""
    pairs = list(zip(answers, references, strict=True))
    assert pairs
    count = len(pairs)
    return AnswerScores(
        answers=count,
        exact_match=sum(answer.strip() == reference.strip() for answer, reference in pairs) / count,
        rouge_l=sum(rouge_l(answer, reference) for answer, reference in pairs) / count,
        words=sum(len(words(answer)) for answer in answers) / count,
        reference_words=sum(len(words(reference)) for reference in references) / count,
    )


def words(text: str) -> list[str]:
    """In lower case, without signs. Unlike the package ``rouge-score``, letters of all scripts count."""
    return _WORDS.findall(text.lower())


def rouge_l(answer: str, reference: str) -> float:
    """F1 over words of the longest common subsequence.

    Source: C.-Y. Lin, ROUGE: A Package for Automatic Evaluation of Summaries, 2004, section 3.1, with
    beta 1 as the package ``rouge-score`` has it.
    """
    ours, theirs = words(answer), words(reference)
    common = longest_common(ours, theirs)
    return 2 * common / (len(ours) + len(theirs)) if common else 0.0


def longest_common(first: Sequence[str], second: Sequence[str]) -> int:
    """Length of the longest common subsequence, in time len(first) · len(second)."""
    before = [0] * (len(second) + 1)
    for word in first:
        row = [0]
        for index, other in enumerate(second):
            row.append(before[index] + 1 if word == other else max(before[index + 1], row[index]))
        before = row
    return before[-1]
