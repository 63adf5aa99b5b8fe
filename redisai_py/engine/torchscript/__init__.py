"""TorchScript scripts, run in worker processes that can be killed: queues, processes and the conversation with them.

`engine` is the way in; docs/adr/0009 and 0010 tell why it is built so. Nothing here imports a framework.
"""

from redisai_py.engine.torchscript.engine import ScriptEngine
from redisai_py.engine.torchscript.frames import ReplyTree
from redisai_py.engine.torchscript.hosts import ScriptHost
from redisai_py.engine.torchscript.jobs import ScriptRun, ScriptSettings

__all__ = ["ReplyTree", "ScriptEngine", "ScriptHost", "ScriptRun", "ScriptSettings"]
