"""Images come in: sources list them, `ingest` decodes them to arrays and a manifest."""
