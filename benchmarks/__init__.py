"""Benchmarks of each layer against the raw HTTP engine, the bare frameworks and other integrations. Run by hand."""
