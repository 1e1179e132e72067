"""Blob stores: where the large parts of values are."""
