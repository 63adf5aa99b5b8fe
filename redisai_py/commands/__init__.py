"""AI commands as data: one row each, and the parser that turns a command's words into a frozen request.

Pure: no I/O, no clock, no Redis.
"""

from redisai_py.commands.arguments import Argument
from redisai_py.commands.spec import CommandSpec
from redisai_py.commands.table import COMMANDS

__all__ = ["COMMANDS", "Argument", "CommandSpec"]
