"""Workflows as pictures: what `podium graph` prints. Pure, and without any service or library for it."""
