"""Permits and rates: who may run now, and whose turn it is."""
