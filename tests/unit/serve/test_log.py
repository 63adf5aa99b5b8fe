from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = """
import logging, sys
from redisai_py.serve import log
import structlog
log.configure("info", sys.argv[1], process="server")
logger = structlog.get_logger()
logger.info("stored", key="k")
logger.debug("hidden")
logging.getLogger("asyncio").warning("from %s", "elsewhere")
try:
    password = "hunter2"
    1 / 0
except ZeroDivisionError:
    logger.exception("failed")
"""


def lines(form: str) -> list[str]:
    """What a process that logs in that form writes to standard error."""
    done = subprocess.run([sys.executable, "-c", SCRIPT, form], capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout == ""
    return done.stderr.splitlines()


def test_json_lines_hold_the_event_and_its_fields() -> None:
    events = [json.loads(line) for line in lines("json")]
    assert [event["event"] for event in events] == ["stored", "from elsewhere", "failed"]
    assert events[0] | {"timestamp": ""} == {
        "event": "stored",
        "key": "k",
        "level": "info",
        "process": "server",
        "timestamp": "",
    }
    assert "ZeroDivisionError" in events[2]["exception"]


def test_local_variables_are_not_logged() -> None:
    for form in ("json", "text"):
        assert "hunter2" not in "\n".join(lines(form))


def test_text_lines() -> None:
    text = lines("text")
    assert "stored" in text[0]
    assert "key=k" in text[0]
    assert "process=server" in text[0]
    assert "from elsewhere" in text[1]
    assert text[-1].startswith("ZeroDivisionError")
