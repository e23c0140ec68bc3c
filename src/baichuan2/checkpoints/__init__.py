"""Model folders: found on disk or on the hub, checked before anything is built, and loaded."""
