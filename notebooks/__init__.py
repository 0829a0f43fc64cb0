"""Notebooks and their runner: `python -m notebooks`, live with credentials, on recorded exchanges without."""
