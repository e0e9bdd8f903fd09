"""BYTES <-> WORDS: the formats on the wire, without any I/O."""
