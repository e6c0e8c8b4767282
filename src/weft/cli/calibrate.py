"""``weft calibrate``: how sure a checkpoint's answers are, fitted to labelled files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from weft.cli.command import Record, weft_command
from weft.cli.task_options import task_given, task_options
from weft.core.errors import UsageError


@weft_command("calibrate")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@task_options
@click.option(
    "--bayes-files",
    "train_files",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Labelled files whose words are counted; a naive Bayes of them votes beside a classifier.",
)
@click.option("--no-bayes", is_flag=True, help="Take such a vote, and its counts, out again.")
def command(checkpoint: Path, no_bayes: bool, **given: Any) -> Record:
    """Fit the temperature of a classifier, or the usual score of a translator, to validation files.

    With --bayes-files the words of training files are counted into CHECKPOINT (naive_bayes.json), and the
    weight of their vote beside the network's is fitted with the temperature; they stay as they are until
    they are counted again or taken out. The task card (task.json) is
    written anew; the weights stay as they are. Never give test files.
    """
    from weft.recipes.task_calibrate import calibrate

    if not given["task_files"]:
        raise UsageError("Give --task-files, labelled files for validation.")
    files, writing = task_given(**given)
    record = calibrate(checkpoint, files, writing, bayes=_bayes(bool(given["train_files"]), no_bayes))
    if "temperature" in record:
        degrees = f"{record['temperature_before']:.3f} -> {record['temperature']:.3f}"
        error = f"{100 * record['ece_before']:.2f} % -> {100 * record['ece']:.2f} %"
        click.echo(f"temperature {degrees}; calibration error (ECE) {error} on {record['items']:,} texts")
        if "accuracy" in record:
            click.echo(_vote(record))
    else:
        click.echo(f"usual score {record['usual_before']:.4f} -> {record['usual']:.4f}")
    return record


def _bayes(counted: bool, taken_out: bool) -> bool | None:
    if counted and taken_out:
        raise UsageError("--no-bayes takes out what --bayes-files puts in; leave one of the two out.")
    return True if counted else False if taken_out else None


def _vote(record: Record) -> str:
    right = f"{100 * record['accuracy_before']:.2f} % -> {100 * record['accuracy']:.2f} %"
    weight = f"weight {record['bayes']:.3f}" if record["bayes"] else "left out, it does not help"
    said = f"naive Bayes of {record['counted_texts']:,} texts beside the network: {weight}; accuracy {right}"
    if record["left_out"]:
        said += f"; not counted: {record['left_out']:,} texts that are in --task-files too"
    return said
