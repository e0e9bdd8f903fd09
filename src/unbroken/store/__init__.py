"""MEMORY: where streams are kept. One protocol, several implementations, one contract suite."""
