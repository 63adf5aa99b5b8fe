"""Connections to Redis, and who shares them."""
