"""Connections, attempts, bodies and deadlines: the only room that knows aiohttp, none of whose exceptions leaves it.

Nothing is imported here: aiohttp takes longer to load than a client to make, and is loaded with the first request.
"""
