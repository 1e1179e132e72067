"""Tools that come with Podium. They run in a sandbox, alone: nothing here imports Podium."""
