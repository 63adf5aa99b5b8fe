"""The prediction cache's rules, names, entries and arithmetic. Pure; `ai.predictions` puts them to use."""
