"""The five services, and all of them in one process."""
