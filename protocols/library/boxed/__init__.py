"""Tools that come with Podium. They run alone in a sandbox: nothing here imports the rest of Podium."""
