"""How it is governed: the fold, the four modes, and the Supervisor around them. Decisions are pure."""
