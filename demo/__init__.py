"""A demonstration of both faces: `python -m demo`."""
