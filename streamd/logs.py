"""Log lines: plain text for a terminal, one JSON object a line for a collector.

Plain lines have no time of their own under systemd, whose journal adds one.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime

STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonLines(logging.Formatter):
    """One object a line: at (RFC 3339), level, message, and whatever was given as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **{name: value for name, value in vars(record).items() if name not in STANDARD},
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class PlainLines(logging.Formatter):
    """`12:00:01.234 info  message name=value`."""

    def format(self, record: logging.LogRecord) -> str:
        extra = "".join(f" {name}={value}" for name, value in vars(record).items() if name not in STANDARD)
        at = datetime.fromtimestamp(record.created).isoformat(sep=" ", timespec="milliseconds")[11:]
        clock = "" if "JOURNAL_STREAM" in os.environ else f"{at} "
        text = f"{clock}{record.levelname.lower():7} {record.getMessage()}{extra}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def set_up(form: str, level: str) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if form == "json" else PlainLines())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("asyncio").setLevel("WARNING")
    logging.getLogger("watchfiles").setLevel("WARNING")
