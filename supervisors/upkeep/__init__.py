"""The duties of a supervisor beside running tasks: taking over, setting aside, forgetting, passivation."""
