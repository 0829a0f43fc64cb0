"""Stress tests: programs that break things on purpose. Run by hand, not by the test suite: see docs/performance.md."""
