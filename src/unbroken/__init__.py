"""Unbroken: a streaming chat gateway whose answers, once begun, arrive whole."""

__version__ = "0.1.0"
