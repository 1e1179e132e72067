"""Limits: the ledger of permits and rates decides which steps may run now, and in which order."""
