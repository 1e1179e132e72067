"""What governance needs of everything outside it: the journal, messaging, and the world."""
