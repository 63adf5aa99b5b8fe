"""The first code of a zygote's process: `python -m redisai_py.engine.isolation.boot CONTROL_FD PARENT BACKEND`.

BACKEND is imported before anything is forked; `-` for none. PARENT is the server's process id.
"""

from __future__ import annotations

import sys

from redisai_py.engine.lifetime import die_with_parent

__all__ = ["main"]


def main() -> None:
    """Serve on the inherited socket until the server closes it."""
    die_with_parent(int(sys.argv[2]))  # before the imports, one of which may never end
    from redisai_py.engine.isolation import zygote

    zygote.serve(int(sys.argv[1]), "" if sys.argv[3] == "-" else sys.argv[3])


if __name__ == "__main__":
    main()
