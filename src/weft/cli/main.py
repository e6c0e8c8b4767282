"""``weft``: one thin file a verb, imported only when that verb runs, so that --help stays instant."""

from __future__ import annotations

import importlib
from typing import Any

import click

from weft import __version__
from weft.cli.command import refused_by_the_system
from weft.core.registry import nearest

VERBS = {
    "demo": "Walk the whole way on this machine: text, tokenizer, training, evaluation, samples.",
    "data": "Clean, deduplicate and split text; tokenise it into shards.",
    "tokenizer": "Train a tokenizer on a data folder.",
    "plan": "Say which parallel layout fits a model and a machine, and why.",
    "train": "Train a model from a run file, within a time budget.",
    "launch": "Start training on several processes, hosts or a cluster.",
    "advise": "Say by measurement which architecture fits a task and its data.",
    "tune": "Choose batch size and learning rate by measurement.",
    "recipe": "From labelled data to a measured model with one command.",
    "eval": "Measure a checkpoint on text, labelled files or benchmarks, beside baselines.",
    "curves": "Draw the learning curves of a training run.",
    "calibrate": "Fit how sure a classifier or translator is to labelled files.",
    "generate": "Continue a prompt with a checkpoint.",
    "translate": "Translate texts.",
    "summarize": "Summarize texts.",
    "classify": "Label texts.",
    "sentiment": "Say the sentiment of texts.",
    "entities": "Find the named entities of texts.",
    "roles": "Label who did what around a predicate.",
    "answer": "Answer questions from a text.",
    "embed": "Turn texts into vectors.",
    "index": "Index a folder of texts for search.",
    "search": "Find the passages of an index that fit a query.",
    "ask": "Answer a question from an index, with its sources.",
    "serve": "Serve checkpoints: OpenAI-compatible HTTP, tasks and a page.",
    "key": "Make, list and revoke the API keys of a server.",
    "bench": "Measure a server under load, or what a smaller cache costs.",
    "export": "Write a checkpoint as a Hugging Face folder or a GGUF file.",
    "import": "Read a Hugging Face folder into a Weft checkpoint.",
}


class Verbs(click.Group):
    """The group whose commands live in modules of their own."""

    def main(self, *arguments: Any, **how: Any) -> Any:
        """As click; a help text that cannot be written is no traceback either."""
        try:
            return super().main(*arguments, **how)
        except OSError as error:
            refused_by_the_system(error)

    def list_commands(self, context: click.Context) -> list[str]:
        """The verbs in the order of the way of the data."""
        return list(VERBS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Import the verb's module only now."""
        if name not in VERBS:
            return None
        suffix = "_" if name in ("import", "eval") else ""
        module = importlib.import_module(f"weft.cli.{name}{suffix}")
        command: click.Command = module.command
        return command

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click, with the nearest right verb in the error."""
        if args and not args[0].startswith("-") and args[0] not in VERBS:
            guess = nearest(args[0], VERBS)
            hint = f"did you mean {guess!r}?" if guess else f"choose one of: {', '.join(VERBS)}."
            context.fail(f"There is no command {args[0]!r}; {hint}")
        return super().resolve_command(context, args)

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """The table of verbs, without importing any of them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(VERBS.items()))


@click.group(cls=Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="weft")
def main() -> None:
    """Weft: from raw text to a served language model, parallel at every stage."""
