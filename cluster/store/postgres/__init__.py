"""The store of clusters: all shards in one PostgreSQL database."""
