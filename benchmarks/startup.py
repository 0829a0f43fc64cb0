"""The cost of imports and constructors, measured in a fresh process: `python -m benchmarks.startup NAME`.

Do not import anything here that a framework would otherwise have to import itself.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib import import_module

_BASE_URL = "http://127.0.0.1:9/v1"
_TIMES = 100
_LANGCHAIN = ("language_models.chat_models", "messages", "outputs", "tools")
FRAMEWORKS = {
    "LangChain": [f"langchain_core.{name}" for name in _LANGCHAIN],
    "LlamaIndex": ["llama_index.core"],
}
"""The modules that every program using the framework imports."""
PARTS = {
    "ChatTIRQwen": ("LangChain", "langchain_tir_qwen"),
    "ChatOpenAI": ("LangChain", "langchain_openai"),
    "ChatMistralAI": ("LangChain", "langchain_mistralai"),
    "TIRQwen": ("LlamaIndex", "llama_index_tir_qwen"),
    "OpenAILike": ("LlamaIndex", "llama_index.llms.openai_like"),
}
"""For each model, its framework and its module."""


def imported(modules: list[str]) -> float:
    """Import the modules and return the CPU time in milliseconds."""
    began = time.process_time()
    for module in modules:
        import_module(module)
    return (time.process_time() - began) * 1e3


def main(name: str) -> None:
    """Measure importing the framework and the model's module, creating models, and open files; print the figures."""
    framework, module = PARTS[name]
    first, then = imported(FRAMEWORKS[framework]), imported([module])
    make = getattr(sys.modules[module], name)
    arguments = {"api_base" if framework == "LlamaIndex" else "base_url": _BASE_URL, "api_key": "token"}
    files = len(os.listdir("/dev/fd"))  # noqa: PTH208 - pathlib must not be imported
    took, models = [], []
    for _ in range(1 + _TIMES):
        began = time.perf_counter()
        models.append(make(model="qwen3_32b", **arguments))
        took.append((time.perf_counter() - began) * 1e3)
    files = len(os.listdir("/dev/fd")) - files  # noqa: PTH208
    figures = {"framework, CPU ms": first, "module, CPU ms": then, "adds %": 100 * then / first}
    figures |= {"first, ms": took[0], "next, ms": sorted(took[1:])[_TIMES // 2], "files": files}
    print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1])
