"""Verdicts, which a supervising protocol returns; `goto` and `Goto` are for nodes of an Adaptive."""

from .protocols.verdicts import Goto, accept, assign, escalate, fail, goto, retry

__all__ = ["Goto", "accept", "assign", "escalate", "fail", "goto", "retry"]
