"""The journal: two implementations of `supervisors.ports.Journal`, and readers that need no ownership of a shard."""
