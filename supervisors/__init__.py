"""The room of governing: the fold, the four modes, and the Supervisor around them. All decisions are pure."""
