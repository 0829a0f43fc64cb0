"""The API reference, generated from the docstrings: `python -m docs [FOLDER]`."""
