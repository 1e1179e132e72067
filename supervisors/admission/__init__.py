"""Takes tasks in: they are accepted or refused early, and wait until they hold their permits."""
