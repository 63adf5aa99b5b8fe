"""What lasts: tensors, models and scripts as ordinary Redis keys. `codec` is pure; `store` asks Redis."""
