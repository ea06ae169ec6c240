"""Why a run ended as it did, and what to do next: one paragraph, from its events and exit codes. Pure."""

from __future__ import annotations

from packtrain.errors import BY_EXIT_CODE, PacktrainError
from packtrain.report.story import Story
from packtrain.train.progress import duration

#: What a code asks for, where the run's own last word has no better advice.
NEXT = {
    2: "Correct the command line.",
    65: "Look at the row that is named with packtrain data, and correct or remove it.",
    69: "Run the same command again: it goes on from the last checkpoint.",
    70: "This is a bug: report it with the output of packtrain version -v. The same command goes on from the "
    "last checkpoint.",
    71: "Lower train.micro_batch or data.max_length, set train.activation_checkpointing, or take a larger "
    "machine; packtrain plan says what fits.",
    73: "Another run owns this place: name another output.uri or name, or --new.",
    74: "Make room on the disk, or look whether the bucket can be reached; the same command goes on.",
    75: "The same command goes on from there.",
    76: "A gate of the run file closed: loosen it (evaluate.fail_if, cluster.max_cost), or train otherwise.",
    77: "Look whether the token and the rights are there: packtrain cloud check, and the model's page.",
    78: "Correct the run file.",
    79: "Lower train.learning_rate, and look at the rows that are named with packtrain data.",
}
_RETRIED = {
    "no": "Nothing tries it again by itself.",
    "yes": "A cluster tries it again by itself.",
    "counted": "A cluster tries it again by itself, some times.",
}


def explain(
    story: Story,
    *,
    now: float | None = None,
    cluster: str | None = None,
    hint: str | None = None,
    finishing: bool = False,
) -> str:
    """``now``: seconds since 1970, for a run that has no last word; ``cluster``: what is seen there.

    ``finishing``: the run itself asks, before its last word.
    """
    if not story.attempts:
        told = "The run has not begun: it has no events yet."
        return " ".join(filter(None, [told, _in_cluster(cluster, hint)]))
    if finishing and story.end is None:
        return f"{_progress(story)} {_done(story)} {_before(story)}".rstrip()
    return " ".join(
        filter(
            None,
            [
                _progress(story),
                _end(story, now),
                _before(story),
                _in_cluster(cluster, hint),
                _next(story, cluster),
            ],
        )
    )


def _progress(story: Story) -> str:
    of = f" of {story.steps:,}" if story.steps else ""
    took = duration(story.attempt_seconds)
    attempts = f" in {story.attempt_count} attempts" if story.attempt_count > 1 else ""
    return f"The run did {story.step:,}{of} steps ({story.tokens:,} tokens) in {took}{attempts}."


def _end(story: Story, now: float | None) -> str:
    end = story.end
    if end is None:
        ago = f", {duration(max(0.0, now - story.attempts[-1].until))} ago" if now is not None else ""
        last = story.last
        what = f"a {last.kind} event at step {last.step}{ago}" if last else "nothing"
        return (
            f"Its newest attempt has no last word (the latest is {what}): it is still running, or it was "
            "killed without a chance to speak: by SIGKILL, a machine's crash, or for want of memory."
        )
    message = _sentence(str(end.fields.get("message") or ""))
    if end.kind == "preempted":
        return (
            f"It was asked to stop ({end.fields.get('signal') or 'a signal'}) and saved its state: {message}"
        )
    if end.fields.get("outcome") == "done":
        return _done(story)
    code = end.fields.get("exit_code")
    meaning = _meaning(code)
    return f"It failed with exit code {code}{f' ({meaning})' if meaning else ''}: {message}"


def _done(story: Story) -> str:
    parts = ["It is done and verified"]
    if story.loss is not None and story.base_loss is not None:
        better = "better than" if story.loss < story.base_loss else "NOT better than"
        parts.append(
            f"; its validation loss of {story.loss:.4f} is {better} the base's {story.base_loss:.4f}"
        )
    if story.published:
        parts.append(f"; it was published to {story.published['uri']}")
    return "".join(parts) + "."


def _before(story: Story) -> str:
    """Earlier attempts, by how they ended."""
    ends = story.ended_before
    if not ends:
        return ""
    return f"Before that: {', '.join(f'{count} × {word}' for word, count in ends.items())}."


def _in_cluster(cluster: str | None, hint: str | None) -> str:
    if cluster is None:
        return ""
    return f"In the cluster: {_sentence(cluster)}" + (f" {_sentence(hint)}" if hint else "")


def _next(story: Story, cluster: str | None) -> str:
    end = story.end
    if end is None:
        lost = f" from step {story.saved_step:,}" if story.saved_step else " from the beginning"
        return f"If nothing runs any more, the same command goes on{lost}." if cluster is None else ""
    if end.fields.get("outcome") == "done":
        return "" if story.published else "Nothing is to be done; packtrain chat talks with it."
    code = 75 if end.kind == "preempted" else end.fields.get("exit_code")
    kind = BY_EXIT_CODE.get(code) if isinstance(code, int) else None
    retried = _RETRIED[kind.retry] if kind else ""
    saved = f"Its last checkpoint is of step {story.saved_step:,}." if story.saved_step else ""
    return " ".join(filter(None, [saved, NEXT.get(code, "") if isinstance(code, int) else "", retried]))


def _meaning(code: object) -> str:
    kind: type[PacktrainError] | None = BY_EXIT_CODE.get(code) if isinstance(code, int) else None
    if kind is None or not kind.__doc__:
        return ""
    return kind.__doc__.split("\n")[0].rstrip(".").lower()


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text if not text or text[-1] in ".!?" else text + "."
