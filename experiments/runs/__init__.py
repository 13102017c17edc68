"""One run's stages: train, predict, measure; and where its results are stored."""
