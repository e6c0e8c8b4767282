"""datatrove on one JSON Lines file: quality, personal data, near duplicates, tokens; one core.

    python datatrove_pipeline.py REQUEST.json RESULT.json

The request holds file, language (eng or zho), tokenizer and folder. The steps are those of datatrove's own
FineWeb example that run offline and that both systems have; all are its classes with their defaults.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from datatrove.executor.local import LocalPipelineExecutor
from datatrove.pipeline.dedup import MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets
from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.formatters import PIIFormatter
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import DocumentTokenizer
from datatrove.pipeline.writers import JsonlWriter


def note_ids(file: str):
    """A step that passes documents on and writes down which ones."""

    def run(data, rank: int = 0, world_size: int = 1):
        with Path(file).open("w", encoding="utf-8") as stream:
            for document in data:
                stream.write(document.id + "\n")
                yield document

    return run


def main() -> None:
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    folder, language = Path(request["folder"]), request["language"]
    file = Path(request["file"])
    config = MinhashConfig(n_grams=5)
    seconds: dict[str, float] = {}

    def stage(name: str, steps: list, tasks: int = 1) -> None:
        began = time.perf_counter()
        LocalPipelineExecutor(steps, tasks=tasks, workers=1, logging_dir=str(folder / "logs" / name)).run()
        seconds[name] = time.perf_counter() - began

    reader = JsonlReader(str(file.parent), glob_pattern=file.name)
    quality = [GopherRepetitionFilter(language=language)]
    if language == "eng":
        # Its stop words and word lengths are those of English.
        quality.append(GopherQualityFilter(language=language))
    filtered = str(folder / "filtered")
    stage(
        "filter and de-identify",
        [reader, *quality, note_ids(str(folder / "passed")), PIIFormatter(), JsonlWriter(filtered)],
    )
    signatures = MinhashDedupSignature(str(folder / "signatures"), config=config, language=language)
    stage("signatures", [JsonlReader(filtered), signatures])
    buckets = MinhashDedupBuckets(str(folder / "signatures"), str(folder / "buckets"), config=config)
    stage("buckets", [buckets], tasks=config.num_buckets)
    cluster = MinhashDedupCluster(str(folder / "buckets"), str(folder / "remove"), config=config)
    stage("clusters", [cluster])
    tokenizer = DocumentTokenizer(
        str(folder / "tokens"),
        tokenizer_name_or_path=request["tokenizer"],
        eos_token="<|endoftext|>",
        shuffle_documents=False,
    )
    stage(
        "drop and tokenise",
        [
            JsonlReader(filtered),
            MinhashDedupFilter(str(folder / "remove")),
            note_ids(str(folder / "kept")),
            tokenizer,
        ],
    )
    result = {
        "seconds": seconds,
        "passed": (folder / "passed").read_text(encoding="utf-8").split(),
        "kept": (folder / "kept").read_text(encoding="utf-8").split(),
    }
    Path(sys.argv[2]).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
