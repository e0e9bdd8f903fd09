"""BEING CALLED: the HTTP server, its routes, and the two halves of every answer: produce and follow."""
