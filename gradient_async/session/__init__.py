"""Connections, attempts, bodies and deadlines: the only room that works with aiohttp. It raises none of its exceptions.

This file imports nothing: loading aiohttp takes longer than making a client, so the first request loads it.
"""
