"""What is said while the hub is asked again: one plain sentence a try, in place of the client's own."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager

#: The logger of the client's retries (huggingface_hub/utils/_http.py, http_backoff).
CLIENT = "huggingface_hub.utils._http"
#: The logger of what it says about a file that was cut (huggingface_hub/file_download.py, http_get).
FILES = "huggingface_hub.file_download"
#: The logger of its word that a repository has none of the files that may be there, such as a card.
SNAPSHOT = "huggingface_hub._snapshot_download"
AGAIN = re.compile(
    r"(?P<limit>Rate limited\. Waiting|Retrying in) (?P<seconds>[\d.]+)s .*\[Retry (?P<of>\d+/\d+)\]"
)


class _Said(logging.Filter):
    """Leaves the client's sentence about the wait or a cut file, in our words; the cause comes at the end."""

    def filter(self, record: logging.LogRecord) -> bool:
        said = record.getMessage()
        if match := AGAIN.match(said):
            why = "asks for fewer requests" if match["limit"].startswith("Rate") else "does not answer"
            record.args = ()
            record.msg = f"the Hugging Face hub {why}: asked again in {match['seconds']} s ({match['of']})"
            return True
        if said.startswith("Error while downloading from "):
            record.args = ()
            record.msg = "a download from the Hugging Face hub was cut: it goes on where it stopped"
            return said.endswith("Trying to resume download...")
        return " thrown while requesting " not in said and not said.startswith("No files matched ")


@contextmanager
def said_plainly() -> Iterator[None]:
    """While it is entered, also for what others ask of the hub in other threads."""
    loggers, words = [logging.getLogger(name) for name in (CLIENT, FILES, SNAPSHOT)], _Said()
    for logger in loggers:
        logger.addFilter(words)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(words)
