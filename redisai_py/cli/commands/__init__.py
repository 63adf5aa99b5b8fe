"""The subcommands of `redisai`, one module per group. None is slow to import."""
