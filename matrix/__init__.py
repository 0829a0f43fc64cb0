"""The package in clean environments: each extra, each Python, newest and lowest versions (`make matrix`)."""
