"""The actors: the coordinator, the ResourceActor, protocol hosts, and the exchange between all actors."""
