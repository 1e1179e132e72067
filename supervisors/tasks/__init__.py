"""Defines a task: its plan, its events, its state, and the fold that computes the state from the events. Pure."""
