"""edge.export: train small models with ternary weights and write them for every engine."""
