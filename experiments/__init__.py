"""What the paper ran, and running it: registry, stages, reports, the command line. Imports the other two packages."""
