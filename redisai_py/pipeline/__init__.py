"""The pipeline: from a table to an artifact, under one definition. Split, train, test, publish.

`Pipeline` keeps the state between steps, for notebooks. The steps are also functions: `load`, `split`, `train`,
`evaluate`, `contents`. Needs the extra `pipeline`; the server does not import this package.
"""

from __future__ import annotations

from redisai_py.pipeline.builders import ExportRefused, builder_names
from redisai_py.pipeline.definition import Definition
from redisai_py.pipeline.features import Features
from redisai_py.pipeline.gates import GateFailed

__all__ = ["Definition", "ExportRefused", "Features", "GateFailed", "builder_names"]
