"""Ready-made protocols. They are user-land code: they may touch files, processes and networks, like any user's."""
