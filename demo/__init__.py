"""A demo of both integrations: `python -m demo`, live with credentials, on recorded exchanges without."""
