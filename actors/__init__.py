"""Who lives there: the coordinator, the resource actor, protocol hosts, and the exchange between them."""
