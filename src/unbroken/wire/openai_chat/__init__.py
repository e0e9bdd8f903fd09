"""The OpenAI Chat Completions dialect.

Source: the public OpenAI API reference, "Chat" and "Chat streaming"; the types of the official SDKs.
"""
