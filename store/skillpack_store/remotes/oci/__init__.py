"""What an OCI registry needs beyond HTTP: credentials, tokens, uploads, tags."""
