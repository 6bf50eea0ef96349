"""Other people's clients and agents, driven for real through Penstock: README.md holds the table of what was tried."""
