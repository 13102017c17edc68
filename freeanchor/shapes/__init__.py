"""The synthetic data set: slender, acentric, square and crowded objects."""
