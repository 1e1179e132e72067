"""The actors below a supervisor: started, restarted, given up."""
