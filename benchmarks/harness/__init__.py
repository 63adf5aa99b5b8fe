"""What every benchmark needs: servers to measure, load to put on them, results to write down.

What is measured is the checkout that this file is in, whatever is installed.
"""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2] / name) for name in ("", "backends")]
