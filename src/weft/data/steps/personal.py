"""Step 9: personal data gives way to tags or fakes, and is counted; the patterns are in ``data/personal``.

It comes after normalising, which gives each text its one form, and before everything that measures, hashes
or compares texts, so that nothing later sees what was taken out. Code is treated like text: addresses and
keys are found in it most of all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from weft.data.config import PersonalConfig
from weft.data.engine import batch_function, daft
from weft.data.personal.fakes import load_secret
from weft.data.personal.replace import Deidentifier
from weft.data.personal.scan import PatternFinder
from weft.data.personal.span import Finder
from weft.data.schema import PERSONAL, REASON, TEXT, VALUE

DROP_REASON = "personal_data"
_RESULT = "deidentified"
_DROPPED = "dropped_for"


def deidentify(frame: Any, config: PersonalConfig, finders: Sequence[Finder] = ()) -> Any:
    """Change the text, add the column personal, and set the reason ``personal_data`` with the kind as value
    where a policy drops the document. ``finders`` look for more than our patterns.

    Raises ConfigError for a secret that cannot be read, ResourceError when Presidio is not installed.
    """
    worker = Deidentifier(config, [*all_finders(config), *finders], load_secret(config.secret_file))
    counts = pa.struct([(kind, pa.int32()) for kind in worker.kinds])
    row = pa.struct([(TEXT, pa.large_string()), (PERSONAL, counts), (_DROPPED, pa.large_string())])

    @batch_function(daft.DataType.from_arrow_type(row), rows=256)
    def run(texts: Any) -> Any:
        return result_column(texts.to_arrow().cast(pa.large_string()), worker)

    col = daft.col
    result = col(_RESULT)
    frame = frame.with_column(_RESULT, run(col(TEXT)))
    drop = col(REASON).is_null() & ~result.get(_DROPPED).is_null()
    return frame.with_columns(
        {
            TEXT: result.get(TEXT),
            PERSONAL: result.get(PERSONAL),
            REASON: daft.functions.when(drop, daft.lit(DROP_REASON)).otherwise(col(REASON)),
            VALUE: daft.functions.when(drop, result.get(_DROPPED)).otherwise(col(VALUE)),
        }
    ).exclude(_RESULT)


def all_finders(config: PersonalConfig) -> list[Finder]:
    """The finders that the configuration asks for."""
    finders: list[Finder] = [PatternFinder(config)]
    if config.presidio:
        from weft.data.personal.presidio import PresidioFinder

        finders.append(PresidioFinder())
    return finders


def result_column(texts: pa.Array, worker: Deidentifier) -> pa.StructArray:
    """Texts, counts by kind and the kind that drops, as one struct array [N], for a large_string array [N].

    A null is a document whose text was never read. Texts in which nothing was found are not copied.
    """
    there = np.flatnonzero(np.asarray(pc.is_valid(texts)))
    given = texts.drop_null().to_pylist()
    result = worker.apply(given)
    hit = [number for number, count in enumerate(result.counts) if count]
    changed = np.zeros(len(texts), bool)
    changed[there[hit]] = True
    missing = np.ones(len(texts), bool)
    missing[there] = False
    dropped = np.full(len(texts), None, object)
    dropped[there] = result.dropped
    counts = np.zeros((len(worker.kinds), len(texts)), np.int32)
    for number in hit:
        counts[:, there[number]] = [result.counts[number][kind] for kind in worker.kinds]
    news = pa.array([result.texts[number] for number in hit], pa.large_string())
    numbers = pa.StructArray.from_arrays(
        [pa.array(row) for row in counts], names=list(worker.kinds), mask=pa.array(missing)
    )
    columns = [
        pc.replace_with_mask(texts, pa.array(changed), news),
        numbers,
        pa.array(dropped, pa.large_string()),
    ]
    return pa.StructArray.from_arrays(columns, names=[TEXT, PERSONAL, _DROPPED])
