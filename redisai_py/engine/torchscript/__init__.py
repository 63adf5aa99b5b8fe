"""TorchScript scripts, run in worker processes that can be killed: queues, processes and the protocol with them.

`engine` is the entry point; docs/adr/0009 and 0010 give the reasons for the design. No framework is imported here.
"""

from redisai_py.engine.torchscript.engine import ScriptEngine
from redisai_py.engine.torchscript.fleet import ScriptStopped
from redisai_py.engine.torchscript.frames import ReplyTree
from redisai_py.engine.torchscript.hosts import ScriptHost
from redisai_py.engine.torchscript.jobs import ScriptRun, ScriptSettings

__all__ = ["ReplyTree", "ScriptEngine", "ScriptHost", "ScriptRun", "ScriptSettings", "ScriptStopped"]
