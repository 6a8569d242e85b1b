"""The embedded stack: the data directory, and what `ragline up` starts beside the services."""
