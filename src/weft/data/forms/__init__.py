"""Forms of supervised examples, by the names that a run file and the command line use."""

from weft.data.forms.base import Form, Made
from weft.data.forms.chat import Chat
from weft.data.forms.classify import Classify
from weft.data.forms.extractive import Extractive
from weft.data.forms.pairs import Pairs
from weft.data.forms.preferences import Preferences
from weft.data.forms.similar import Similar
from weft.data.forms.span import Span
from weft.data.forms.tag import Tag

__all__ = ["Chat", "Classify", "Extractive", "Form", "Made", "Pairs", "Preferences", "Similar", "Span", "Tag"]
