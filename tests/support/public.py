"""The modules whose names are public."""

PACKAGES = ("tir_qwen", "langchain_tir_qwen", "llama_index_tir_qwen")
MODULES = (
    *PACKAGES,
    *(f"{package}.batches" for package in PACKAGES),
    *("tir_qwen.notebook", "tir_qwen.testing", "tir_qwen.testing.faults"),
)
