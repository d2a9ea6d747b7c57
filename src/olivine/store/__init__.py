"""Content-addressed folders: hashes, entries and their manifests, locks."""
