"""Ways in from outside: the command line and its daemon."""
