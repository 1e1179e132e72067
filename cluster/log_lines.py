"""Makes log records of Podium and its steps safe: no escape sequences for a terminal, and no forged lines.

A name or an error can contain escape sequences. Newlines in it could forge a second log line, with its own level and
time. Handlers belong to the application, and filters of a logger do not see the records of its child loggers. So the
records are cleaned when they are created: those of the logger `podium` and its children, and no others.
"""

from __future__ import annotations

import logging
import traceback
from typing import Any

from ..protocols.printable import one_line, printable

_OURS = "podium"
_CONTINUED = "\n    "
"""Separator of the lines of one record. A line that is not indented begins another record."""


def keep_log_lines() -> None:
    """Clean all records of Podium's loggers in this process from now on. Further calls change nothing."""
    before = logging.getLogRecordFactory()
    if isinstance(before, _Harmless):
        return
    logging.setLogRecordFactory(_Harmless(before))


class _Harmless:
    def __init__(self, before: Any) -> None:
        self._before = before

    def __call__(self, name: str, *args: object, **kwargs: object) -> logging.LogRecord:
        record: logging.LogRecord = self._before(name, *args, **kwargs)
        if name == _OURS or name.startswith(f"{_OURS}."):
            record.name = one_line(name)
            record.msg, record.args = logged(_message(record)), ()
            if record.exc_info and record.exc_info[0] is not None:
                lines = traceback.format_exception(*record.exc_info)
                record.exc_text = logged("\n" + "".join(lines).rstrip("\n"))[1:]
        return record


def logged(text: str) -> str:
    """Return a text that is safe in a log: control characters are escaped, and lines after the first are indented."""
    return printable(text).replace("\u2028", "\\u2028").replace("\u2029", "\\u2029").replace("\n", _CONTINUED)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # arguments that do not fit the message, or a `__str__` that raises: a log line fails nothing
        return f"{record.msg} (its {len(record.args or ())} arguments do not fit it)"
