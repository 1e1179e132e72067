"""A cluster inside the process of its driver."""
