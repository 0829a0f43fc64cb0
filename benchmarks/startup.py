"""What an import and a constructor cost, in a process that has done nothing else: `python -m benchmarks.startup`.

Nothing may be imported here that a framework would otherwise have to import.
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
"""What each program has imported that uses the framework."""
PARTS = {
    "ChatTIRQwen": ("LangChain", "langchain_tir_qwen"),
    "ChatOpenAI": ("LangChain", "langchain_openai"),
    "ChatMistralAI": ("LangChain", "langchain_mistralai"),
    "TIRQwen": ("LlamaIndex", "llama_index_tir_qwen"),
    "OpenAILike": ("LlamaIndex", "llama_index.llms.openai_like"),
}
"""The framework of a model, and the module that has it."""


def imported(modules: list[str]) -> float:
    """CPU milliseconds of these imports."""
    began = time.process_time()
    for module in modules:
        import_module(module)
    return (time.process_time() - began) * 1e3


def main(name: str) -> None:
    """Import the framework, then the model's module; make one, then many; count the open files. Print it all."""
    framework, module = PARTS[name]
    first, then = imported(FRAMEWORKS[framework]), imported([module])
    make = getattr(sys.modules[module], name)
    arguments = {"api_base" if framework == "LlamaIndex" else "base_url": _BASE_URL, "api_key": "token"}
    files = len(os.listdir("/dev/fd"))  # noqa: PTH208 - pathlib would be imported
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
