"""The `ragline` command."""
