"""The steps of `ci.yml`, here: train, gate, push, promote, deploy, each as a command of `redisai`.

    python -m examples.pipeline.ci [--set WORD=VALUE]...

The exit status is that of the first command that fails: 1 for a gate, whose number stands on standard error.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from examples.own_server import server_url
from examples.pipeline.make_data import write

__all__ = ["commands", "main"]

HERE = Path(__file__).parent
_RUN = re.compile(r"^ +- run: (redisai .*)$", re.MULTILINE)


def commands(archive: str) -> Iterator[list[str]]:
    """Those of the workflow, with another archive."""
    for line in _RUN.findall((HERE / "ci.yml").read_text()):
        yield [archive if word.startswith("s3://") else word for word in shlex.split(line)]


def main(argv: list[str] | None = None) -> int:
    """The workflow. Returns the exit status."""
    parser = argparse.ArgumentParser(description="Train, gate, push, promote, deploy, as CI does.")
    parser.add_argument("--set", action="append", default=[], metavar="WORD=VALUE", help="replaces a word, repeatable")
    parser.add_argument("--archive", help="s3://BUCKET/PREFIX or a directory; a temporary one unless given")
    arguments = parser.parse_args(argv)
    settings = [word for setting in arguments.set for word in ("--set", setting)]
    with tempfile.TemporaryDirectory() as directory, server_url() as url:
        write(Path(directory, "data"))
        Path(directory, "cancer.toml").write_bytes((HERE / "cancer.toml").read_bytes())
        for command in commands(arguments.archive or str(Path(directory, "archive"))):
            more = settings if command[1] == "pipeline" else []
            print("$", shlex.join([*command, *more]), flush=True)
            program = [sys.executable, "-m", "redisai_py", *command[1:], *more]
            status = subprocess.run(
                program, cwd=directory, env=os.environ | {"REDISAI_URL": url}, check=False
            ).returncode
            if status:
                return status
    return 0


if __name__ == "__main__":
    sys.exit(main())
