"""The language of requests: what a person asks, how it is classified and planned, and the states it goes through."""
