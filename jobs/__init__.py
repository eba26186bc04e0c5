"""Work on data: train, predict, evaluate."""
