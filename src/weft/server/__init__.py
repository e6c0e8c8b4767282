"""HTTP over the engine: the routes of OpenAI's API, and a page."""

from weft.server.app import create_app
from weft.server.limits import Limits
from weft.server.worker import Worker

__all__ = ["Limits", "Worker", "create_app"]
