"""The places where actors run (Ray, one process, a simulation), the storage, the client, and the gateways."""
