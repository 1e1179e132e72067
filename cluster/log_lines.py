"""What Podium and its steps log, as lines that hold no orders for a terminal and cannot pass for several.

A name or an error can hold escape sequences, and newlines that make a second line of a log, with a level and a time of
its own. Handlers are the application's, and filters of a logger do not see what its children log; so records are made
harmless where they are made, those of the loggers `podium` and below, and no others.
"""

from __future__ import annotations

import logging
import traceback
from typing import Any

from ..protocols.printable import one_line, printable

_OURS = "podium"
_CONTINUED = "\n    "
"""Between lines of one record: a line that is not indented begins another."""


def keep_log_lines() -> None:
    """From now on, in this process. May be called again."""
    before = logging.getLogRecordFactory()
    if isinstance(before, _Harmless):
        return
    logging.setLogRecordFactory(_Harmless(before))


class _Harmless:
    def __init__(self, before: Any) -> None:
        self._before = before

    def __call__(self, name: str, *args: Any, **kwargs: Any) -> logging.LogRecord:
        record: logging.LogRecord = self._before(name, *args, **kwargs)
        if name == _OURS or name.startswith(f"{_OURS}."):
            record.name = one_line(name)
            record.msg, record.args = logged(_message(record)), ()
            if record.exc_info and record.exc_info[0] is not None:
                lines = traceback.format_exception(*record.exc_info)
                record.exc_text = logged("\n" + "".join(lines).rstrip("\n"))[1:]
        return record


def logged(text: str) -> str:
    """A text as it may stand in a log: the lines after the first are indented."""
    return printable(text).replace("\u2028", "\\u2028").replace("\u2029", "\\u2029").replace("\n", _CONTINUED)


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception:  # arguments that do not fit the message, or a `__str__` that raises: a log line fails nothing
        return f"{record.msg} (its {len(record.args or ())} arguments do not fit it)"
