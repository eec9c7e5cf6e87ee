"""What is logged, and how: through uvicorn's own loggers, on stderr."""

from __future__ import annotations

import copy
import json
import logging
from datetime import datetime, timezone
from typing import Any, Literal

from uvicorn.config import LOGGING_CONFIG

Log = Literal["text", "json", "quiet"]


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """A record as JSON; exceptions with their traceback."""
        document: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            document["traceback"] = self.formatException(record.exc_info)
        return json.dumps(document, ensure_ascii=False)


def logging_config(log: Log) -> dict[str, Any]:
    """A configuration for `logging.config.dictConfig`.

    Args:
        log: lines for people, lines of JSON, or only what goes wrong.
    """
    config: dict[str, Any] = copy.deepcopy(LOGGING_CONFIG)
    config["handlers"]["access"]["stream"] = "ext://sys.stderr"
    config["loggers"]["skillpack.serving"] = {"handlers": ["default"], "level": "INFO", "propagate": False}
    if log == "json":
        config["formatters"] = {name: {"()": JsonFormatter} for name in config["formatters"]}
    if log == "quiet":
        for logger in config["loggers"].values():
            logger["level"] = "WARNING"
    return config
