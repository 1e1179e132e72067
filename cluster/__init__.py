"""Where it runs: on Ray, in one process, or simulated; storage, the client, and the gateways."""
