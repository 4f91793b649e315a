"""The release verbs: they run other verbs as child processes."""
