"""The client: engines, tasks, and their links to a cluster."""
