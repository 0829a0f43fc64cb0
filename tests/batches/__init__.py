"""Tests of `tir_qwen.batches`."""
