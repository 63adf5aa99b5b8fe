"""Logging: one event per line on standard error, as text or JSON.

structlog's events and the standard library's records (asyncio, frameworks) go the same way. Modules get their logger
with `structlog.get_logger()`; each of the two processes of `redisai serve` calls `configure` once.
"""

from __future__ import annotations

import logging
import sys

import structlog

__all__ = ["configure"]


def configure(level: str, form: str, *, process: str) -> None:
    """Send all log events to standard error.

    Args: level: debug, info, warning or error.   form: `text` for people, `json` for collectors.
          process: name of this process, a field of every line.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _add_process(process),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(form)],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())


def _renderers(form: str) -> list[structlog.typing.Processor]:
    if form == "json":
        # Tracebacks as text: structured ones contain local variables, including credentials.
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    # The plain traceback: rich's boxes are wide, slow, and unreadable in a file.
    return [
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
    ]


def _add_process(name: str) -> structlog.typing.Processor:
    def add(
        logger: structlog.typing.WrappedLogger, method: str, event: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        event["process"] = name
        return event

    return add
