"""Bytes that nobody meant to send: what reads them says so in words, and never hangs."""
