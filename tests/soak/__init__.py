"""`make soak`: what the suite tries for a moment, for long, with its figures."""
