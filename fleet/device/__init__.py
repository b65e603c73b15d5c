"""The device side of the fleet: the base install is all it needs."""
