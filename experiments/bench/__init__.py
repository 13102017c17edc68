"""Speed and memory against peers, measured by one command."""
