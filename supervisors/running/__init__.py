"""How steps run: pools of hosts, lanes, retries, breakers, timers."""
