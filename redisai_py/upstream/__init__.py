"""Connections to Redis, and how clients share them."""
