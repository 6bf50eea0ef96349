"""Real servers of other people, started and ended by tests: what Penstock speaks to is spoken to in earnest."""
