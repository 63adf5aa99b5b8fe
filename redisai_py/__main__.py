"""`python -m redisai_py`: the same as the command `redisai`."""

from redisai_py.cli import main

main()
