"""The operator's side of the fleet: authority, broker, registry, updates, semantics."""
