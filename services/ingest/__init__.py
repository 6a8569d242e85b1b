"""The ingest service: parses, cleans, chunks and versions the documents that change."""
