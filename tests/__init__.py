"""Tests. A package, since others install one of that name, which would come before a directory without this file."""
