"""Benchmarks: items, protocols, judging, scores and reports."""
