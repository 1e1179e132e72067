"""The embedded store: one SQLite file for each shard, in a data directory."""
