"""Data sets in Redis: manifests over shards, written once, and read in the same order by every worker."""
