"""Clusters on Ray: actors, sessions, sockets, locks of processes."""
