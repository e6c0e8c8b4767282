"""Search in one's own texts, and answers that cite them: ``index(folder, out)``, ``open(out)``.

::

    from weft import retrieval

    found = retrieval.index("notes", "notes.index")
    found.search("how tall is the tower", k=3)
    print(found.ask("How tall is the tower?").text)
"""

from weft.retrieval.answer import Answer, Answerer, Drafted
from weft.retrieval.bm25 import Bm25
from weft.retrieval.index import Index, IndexConfig, index
from weft.retrieval.index import open_index as open
from weft.retrieval.passages import Document, Passage
from weft.retrieval.search import Hit, Reranker

__all__ = [
    "Answer", "Answerer", "Bm25", "Document", "Drafted", "Hit", "Index", "IndexConfig", "Passage", "Reranker",
    "index", "open",
]  # fmt: skip
