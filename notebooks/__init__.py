"""Notebooks, and what runs them: `python -m notebooks`, live with credentials and on recorded exchanges without."""
