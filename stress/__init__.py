"""Stress tests: programs that break things on purpose. Run by hand, never by the test suite: see README.md."""
