"""What a supervisor does beside running tasks: taking over, setting aside, forgetting, going to rest."""
