"""WORDS: what is said. Requests, events, usage, faults. Pure values; imports nothing of ours."""
