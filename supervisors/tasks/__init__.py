"""What a task is: its plan, its state, its events, and the fold that makes one of the others. Pure."""
