"""The actors below a supervisor: how they are started, restarted and given up."""
