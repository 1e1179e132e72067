"""The ports of governance to everything outside it: the journal, messaging, and the world."""
