"""The client: engines, tasks, and how they stay in touch with a cluster."""
