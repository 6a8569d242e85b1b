"""Fetching content by reference: from files, the web and buckets, and from nowhere that it should not reach."""
