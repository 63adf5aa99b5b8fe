"""Models loaded and run in separate processes, so that none of them can crash or block the server.

`isolation` is the entry point; docs/adr/0035 gives the reasons for the design. `boot`, `zygote` and `host` run in the
processes, everything else in the server. Frameworks are imported only through `redisai_py.backend`.
"""
