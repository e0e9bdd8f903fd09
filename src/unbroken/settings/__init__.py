"""WISHES: what the operator asked for. The settings with their defaults and meaning, and how they are read."""
