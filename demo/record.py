"""Re-record the demo's exchanges: `python -m demo.record`, at the endpoint given by the environment."""

from __future__ import annotations

from tir_qwen.testing import Recording, record

from .__main__ import langchain, llama_index
from .questions import EXCHANGES


def main() -> None:
    """Ask both questions, and store the exchanges."""
    with record(EXCHANGES, source=Recording.load(EXCHANGES).source) as endpoint:
        langchain(endpoint.settings)
        llama_index(endpoint.settings)


if __name__ == "__main__":
    main()
