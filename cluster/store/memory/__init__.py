"""The store of simulations, in memory."""
