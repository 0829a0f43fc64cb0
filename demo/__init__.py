"""A demonstration of both faces: `python -m demo`, live with credentials and on recorded exchanges without."""
