"""Programs that break things on purpose. They are run by hand, never as tests: see README.md."""
