"""Durable data: tensors, models and scripts as ordinary Redis keys. `codec` is pure; `store` talks to Redis."""
