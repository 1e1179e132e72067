"""What may be wrong in a data directory or a cluster, and repairing it."""
