"""Data sets in Redis: manifests over shards, written once and read in an order that every worker agrees on."""
