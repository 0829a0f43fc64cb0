"""Benchmarks of every layer, next to the raw HTTP engine, the bare frameworks and other integrations. Run by hand."""
