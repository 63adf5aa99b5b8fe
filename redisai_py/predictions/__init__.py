"""The prediction cache's rules, keys, entries and arithmetic. Pure; `ai.prediction_cache.predictions` applies them."""
