"""How fast each layer is, next to the frameworks' floors and to other integrations: `python -m benchmarks`."""
