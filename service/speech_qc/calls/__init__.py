"""Calls: legs that belong together, what happens between them, and the document at the end."""
