"""HTTP over engines: the routes of OpenAI's API, keys and quotas, and a page.

The process that listens (:mod:`weft.server.app`) reads requests and encodes text; every model runs in an
engine process of its own (:mod:`weft.server.host`), so that a fault there never takes the server down.
"""
