"""The Anthropic Messages dialect.

Source: the public Anthropic API reference, "Messages" and "Streaming messages"; the types of the official SDKs.
"""
