"""Benchmarks; each runs as a module from the repository's root."""
