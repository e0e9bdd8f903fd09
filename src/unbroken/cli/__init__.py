"""The commands. No logic: each reads its flags and calls what does the work."""
