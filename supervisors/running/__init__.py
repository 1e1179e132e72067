"""Runs steps: the dispatcher, pools of hosts, lanes, retries, breakers and timers."""
