"""Models loaded and run in processes of their own, so that none of them can end or hold up the server.

`isolation` is the way in; docs/adr/0035 tells why it is built so. `boot`, `zygote` and `host` run in the processes,
everything else in the server. Nothing here imports a framework but through `redisai_py.backend`.
"""
