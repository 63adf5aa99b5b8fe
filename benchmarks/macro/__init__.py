"""Benchmarks of whole servers: clients on sockets, a real Redis behind, the same bytes on bare Redis beside."""
