"""Updates: the TUF repository of models, what is published in it, and the rollouts that bring it to devices."""
