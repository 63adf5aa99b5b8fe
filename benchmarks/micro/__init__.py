"""Benchmarks of single functions, in nanoseconds per operation, without sockets."""
