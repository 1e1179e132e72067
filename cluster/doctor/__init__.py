"""Checks of a data directory and its cluster, and repairs."""
