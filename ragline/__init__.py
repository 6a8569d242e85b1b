"""Ragline: what two or more of its services share."""
