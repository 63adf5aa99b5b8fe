"""The prediction cache's rules, keys, entries and arithmetic. Pure; `ai.predictions` applies them."""
