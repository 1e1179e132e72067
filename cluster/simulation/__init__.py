"""The simulated cluster: virtual time, seeded faults, and a trace."""
