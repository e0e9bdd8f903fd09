"""The OpenAI Responses dialect.

Source: the public OpenAI API reference, "Responses" and "Responses streaming"; the types of the official SDKs.
"""
