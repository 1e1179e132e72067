"""Benchmarks: one question each. `python benchmarks/throughput.py`."""
