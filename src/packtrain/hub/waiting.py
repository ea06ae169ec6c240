"""What is said while the hub is asked again: one sentence a try, in place of the client's two."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

#: The logger of the client's retries (huggingface_hub/utils/_http.py, http_backoff).
CLIENT = "huggingface_hub.utils._http"
AGAIN = re.compile(
    r"(?P<limit>Rate limited\. Waiting|Retrying in) (?P<seconds>[\d.]+)s .*\[Retry (?P<of>\d+/\d+)\]"
)


class _Said(logging.Filter):
    """Leaves the client's sentence about the wait, in our words; the one about the cause comes at the end."""

    def filter(self, record: logging.LogRecord) -> bool:
        said = record.getMessage()
        if match := AGAIN.match(said):
            why = "asks for fewer requests" if match["limit"].startswith("Rate") else "does not answer"
            record.args = ()
            record.msg = f"the Hugging Face hub {why}: asked again in {match['seconds']} s ({match['of']})"
            return True
        return " thrown while requesting " not in said


@contextmanager
def said_plainly() -> Iterator[None]:
    """While it is entered, also for what others ask of the hub in other threads."""
    logger, words = logging.getLogger(CLIENT), _Said()
    logger.addFilter(words)
    try:
        yield
    finally:
        logger.removeFilter(words)
