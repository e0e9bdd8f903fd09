"""PROOF, to be run by anyone: readers whose lines are cut, servers that are killed, and answers that arrive whole."""
