"""Run as a folder of its own, so that nothing beside it hides the packages that it imports."""
