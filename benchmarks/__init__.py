"""Measurements: `python -m benchmarks`. They are run by hand, never as tests."""
