"""Step 13: training, validation and test, by content hash.

Only one document of a cluster of duplicates is left here, so no cluster straddles two splits.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from weft.data.config import SplitConfig
from weft.data.schema import REASON
from weft.data.steps.identify import DRAW

SPLIT = "split"


def split(rows: pa.Table, bounds: tuple[float, float]) -> pa.Table:
    """Add the column split: a document goes where its draw falls; null where it was dropped."""
    test, valid = bounds
    where = pc.if_else(
        pc.less(rows[DRAW], test), "test", pc.if_else(pc.less(rows[DRAW], valid), "valid", "train")
    )
    dropped = pc.is_valid(rows[REASON])
    return rows.append_column(SPLIT, pc.if_else(dropped, pa.scalar(None, pa.string()), where))


def thresholds(draws: npt.NDArray[np.float64], config: SplitConfig) -> tuple[float, float]:
    """Test gets the draws below the first number, validation those from there to the second.

    These are the shares asked for, moved just so far that each wanted split and training get a document
    when there are enough of them; training comes first.
    """
    ordered = np.sort(draws)
    test, valid = config.test, config.test + config.valid
    wanted = int(config.test > 0), int(config.valid > 0)
    if len(ordered) <= sum(wanted):
        return 0.0, 0.0
    in_test = max(int(np.searchsorted(ordered, test)), wanted[0])
    in_test = min(in_test, len(ordered) - 1 - wanted[1])
    in_both = max(int(np.searchsorted(ordered, valid)), in_test + wanted[1])
    in_both = min(in_both, len(ordered) - 1)
    return float(ordered[in_test]), float(ordered[in_both])
