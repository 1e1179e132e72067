"""Tasks that wait: the answers that they get, and how they rest meanwhile."""
