"""The contracts of the message bus: every event, its topic, who produces it and who consumes it."""
