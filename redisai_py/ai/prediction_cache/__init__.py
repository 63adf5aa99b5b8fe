"""The prediction cache: AI.CACHE, and whether a run of a model with a cache rule is looked up."""
