"""Stress test with real gateways, proxies and networks: see `__main__`."""
