"""``weft data``: from files to token shards, and a look at what came of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from weft.cli.command import Record, weft_command
from weft.cli.data_label import label
from weft.cli.data_texts import texts

if TYPE_CHECKING:
    from weft.data.selection import Shown

_CHARACTERS = 400

FORMS = ["chat", "preferences", "pairs", "similar", "classify", "tag", "span", "extractive"]


class DataCommand(click.Command):
    """The verb that reads sources; a first word that names a verb below it runs that one instead."""

    def __init__(self, reads: click.Command, verbs: Mapping[str, click.Command]) -> None:
        super().__init__(reads.name, callback=reads.callback, params=reads.params, help=reads.help)
        self.verbs = dict(verbs)

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        """The context of this command, or of the verb below it."""
        verb = self.verbs.get(args[0]) if args else None
        if verb is None:
            return super().make_context(info_name, args, parent, **extra)
        return verb.make_context(f"{info_name} {args[0]}", args[1:], parent, **extra)

    def invoke(self, context: click.Context) -> Any:
        """Run what :meth:`make_context` chose."""
        return super().invoke(context) if context.command is self else context.command.invoke(context)

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """The options, and below them the verbs."""
        super().format_options(context, formatter)
        with formatter.section("Commands"):
            formatter.write_dl([(name, verb.get_short_help_str(80)) for name, verb in self.verbs.items()])


@weft_command("data")
@click.argument("sources", nargs=-1, metavar="[RUN.toml] SOURCE... [KEY=VALUE]...")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to make.")
@click.option("--config", "run_file", type=click.Path(path_type=Path), help="A run file in TOML.")
@click.option("--tokenizer", type=click.Path(path_type=Path), help="Use this tokenizer; train none.")
@click.option("--on", help="Where it runs: local (the default), ray, or ray://HOST:PORT.")
def read_sources(
    sources: tuple[str, ...], out: Path, run_file: Path | None, tokenizer: Path | None, on: str | None
) -> dict[str, Any]:
    """Read text from files, folders or globs and make documents, a tokenizer and token shards.

    Junk and duplicates are set aside with their reasons under OUT/dropped. A run file (RUN.toml) and
    KEY=VALUE pairs set what differs from the defaults, for instance split.test=0.05. A second start
    continues where the first one stopped. A source whose name is one of the commands below is given
    as ./NAME.
    """
    from weft.core.config import load
    from weft.core.errors import UsageError
    from weft.data.config import DataConfig
    from weft.data.prepare import prepare

    given = [source for source in sources if not is_override(source)]
    overrides = [source for source in sources if is_override(source)]
    if given and given[0].endswith(".toml") and run_file is None:
        run_file = Path(given.pop(0))
    if tokenizer is not None:
        if any(override.startswith("tokenizer.path=") for override in overrides):
            raise UsageError("--tokenizer and tokenizer.path= say the same thing; give one of them.")
        overrides.append(f"tokenizer.path={tokenizer}")
    if on is not None:
        overrides.append(f"on={on}")
    record = prepare(load(DataConfig, run_file, overrides), given, out)
    show_funnel(record["figures"], out)
    return record


@weft_command("data report")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="The page; by default FOLDER/report.html.")
@click.option("--samples", default=5, show_default=True, help="Documents shown of each reason.")
@click.option("--seed", default=0, show_default=True, help="Equal seeds show equal documents.")
def report(folder: Path, out: Path | None, samples: int, seed: int) -> Record:
    """Write a page about a finished data FOLDER: what was kept, what was dropped and why, with samples."""
    from weft.recipes.data_report import write_data_report

    out = out or folder / "report.html"
    found = write_data_report(folder, out, samples, seed)
    click.echo(f"report: {out}")
    return {"folder": str(folder), "report": str(out), **found}


@weft_command("data show")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--dropped", metavar="REASON", help="Documents dropped for this reason; all shows every one.")
@click.option("--kept", is_flag=True, help="Documents that were kept (the default).")
@click.option("--split", help="Kept documents of train, valid or test only.")
@click.option("--limit", default=20, show_default=True, help="How many documents, at most.")
@click.option("--grep", metavar="TEXT", help="Only documents with this text in them.")
@click.option("--full", is_flag=True, help="Whole texts, not their beginnings.")
def show(
    folder: Path,
    dropped: str | None,
    kept: bool,
    split: str | None,
    limit: int,
    grep: str | None,
    full: bool,
) -> Record:
    """Print documents of a finished data FOLDER, kept or dropped."""
    from weft.core.errors import UsageError
    from weft.data.selection import Selection, select

    if kept and dropped is not None:
        raise UsageError("--kept and --dropped contradict each other; give one of them.")
    wanted = Selection(dropped, split, grep, limit)
    # With --json - standard output belongs to the record alone.
    aside = click.get_current_context().params.get("json_file") == "-"
    shown = []
    for document in select(folder, wanted, None if full else _CHARACTERS):
        click.echo(spell(document), err=aside)
        shown.append(asdict(document))
    if not shown:
        click.echo("No document fits.", err=True)
    return {"folder": str(folder), "documents": shown}


@weft_command("data classifier")
@click.argument("out", type=click.Path(path_type=Path))
@click.option("--good", multiple=True, required=True, type=click.Path(path_type=Path), help="Samples wanted.")
@click.option(
    "--bad", multiple=True, required=True, type=click.Path(path_type=Path), help="Samples unwanted."
)
@click.option("--ngrams", default=2, show_default=True, help="Words of the longest feature; a Han is one.")
@click.option("--epochs", default=5, show_default=True, help="Passes over the samples.")
def classifier(out: Path, good: tuple[Path, ...], bad: tuple[Path, ...], ngrams: int, epochs: int) -> Record:
    """Train a quality classifier from good and bad samples, for classifier.path=OUT in a run of weft data.

    A sample is a record of a .jsonl or .parquet file, or a whole .txt file; folders are searched.
    """
    from weft.data.classifier import train_classifier
    from weft.data.config_quality import ClassifierTraining

    made = train_classifier(good, bad, out, ClassifierTraining(ngrams=ngrams, epochs=epochs))
    return {"out": str(out), **made.figures}


@weft_command("data supervised")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The folder to make.")
@click.option("--tokenizer", type=click.Path(path_type=Path), help="Its chat template is used.")
@click.option("--vocab-size", type=int, help="Tokens of a tokenizer to train on FILES, without --tokenizer.")
@click.option("--form", type=click.Choice(FORMS), default="chat", show_default=True)
@click.option("--valid", multiple=True, type=click.Path(path_type=Path), help="Examples for validation.")
@click.option("--test", multiple=True, type=click.Path(path_type=Path), help="Examples for the final test.")
@click.option("--exclude", multiple=True, type=click.Path(path_type=Path), help="Examples never to learn.")
@click.option(
    "--fields", default="", help="source,target of pairs, query,positive or text,label: their names."
)
@click.option("--reader", default="", help="Format: bio, cluener, roles, squad, lines, parallel, csv or tsv.")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="Of the reader.")
@click.option("--languages", default="", help="Of pairs: source,target, for instance en,zh.")
@click.option("--both-ways", is_flag=True, help="Learn pairs in both directions.")
@click.option("--name", "names", multiple=True, metavar="LABEL=NAME", help="Another name for a label.")
@click.option("--window", default=0, help="Of spans: tokens of a document; longer contexts are cut.")
@click.option(
    "--unit",
    type=click.Choice(("sentence", "clause")),
    default="sentence",
    show_default=True,
    help="What an extractive summary will be made of.",
)
@click.option("--valid-share", type=float, help="Of FILES, without --valid.  [default: 0.02]")
@click.option("--test-share", type=float, help="Of FILES, without --test.  [default: 0.02]")
def supervised(
    files: tuple[Path, ...],
    out: Path,
    tokenizer: Path | None,
    vocab_size: int | None,
    valid: tuple[Path, ...],
    test: tuple[Path, ...],
    exclude: tuple[Path, ...],
    fields: str,
    languages: str,
    valid_share: float | None,
    test_share: float | None,
    **settings: Any,
) -> Record:
    """Encode conversations (OpenAI, ShareGPT, Alpaca), preferences, pairs or labelled texts as shards.

    FILES are for training; validation and test are drawn from them where none are given, and what occurs in
    those or in --exclude is left out of training. `weft train objective.name=sft data.path=OUT` learns
    conversations, objective.name=dpo or orpo preferences; pairs, classify, tag, span and extractive are
    objectives of their own, and objective.name=contrastive learns similar texts.
    """
    from weft.core.errors import UsageError
    from weft.data import supervised as examples
    from weft.data.config import SplitConfig
    from weft.tokenizer import Tokenizer

    shares = {}
    for name, share, files_given in (("valid", valid_share, valid), ("test", test_share, test)):
        if share is not None:
            if files_given:
                raise UsageError(f"--{name} gives what --{name}-share would draw; leave one of them out.")
            shares[name] = share
    settings["split"] = SplitConfig(**shares)
    chosen = examples.SupervisedConfig(fields=_listed(fields), languages=_listed(languages), **settings)
    given = examples.Given(files, valid, test, exclude)
    if (tokenizer is None) == (vocab_size is None):
        raise UsageError(
            "Give --tokenizer, or --vocab-size for one to train on the examples; one of the two."
        )
    made = Tokenizer.load(tokenizer) if tokenizer is not None else vocab_size
    assert made is not None
    figures = examples.prepare(given, made, out, chosen)["figures"]
    for split in ("train", "valid", "test"):
        click.echo(
            f"{split:<8}{figures[split]['documents']:>12,} examples{figures[split]['tokens']:>14,} tokens"
        )
    for reason, count in figures.get("dropped", {}).items():
        click.echo(f"dropped: {reason} {count:,}")
    if figures.get("labels"):
        click.echo(f"labels: {', '.join(figures['labels'])}")
    return {"out": str(out), **figures}


def _listed(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",")) if text else ()


_VERBS = {
    "report": report,
    "show": show,
    "classifier": classifier,
    "supervised": supervised,
    "texts": texts,
    "label": label,
}
command = DataCommand(read_sources, _VERBS)


def is_override(argument: str) -> bool:
    """Whether an argument reads ``section.key=value`` and is not the name of a file."""
    key = argument.partition("=")[0]
    return "=" in argument and key.replace(".", "").replace("_", "").isalpha() and not Path(argument).exists()


def show_funnel(figures: dict[str, Any], out: Path) -> None:
    """Print the funnel as a table."""
    rows = [("read", figures["in"])]
    rows += [(f"  dropped: {reason}", count) for reason, count in figures["dropped"].items()]
    rows += [("kept", figures["kept"])]
    rows += [(f"  {split}", count) for split, count in figures["splits"].items()]
    for name, count in rows:
        click.echo(f"{name:<32}{count['documents']:>12,} documents{count['bytes'] / 1e6:>12,.2f} MB")
    shards = figures["shards"]
    tokens = sum(shards[split]["tokens"] for split in figures["splits"])
    click.echo(f"{tokens:,} tokens of a vocabulary of {shards['vocab_size']:,} in {out / 'shards'}")


def spell(document: Shown) -> str:
    """One document for the console: a line about it, then its text, indented and safe to print."""
    facts = [document.kind, document.language, f"{document.bytes:,} bytes", document.id]
    lines = [click.style(printable(document.source), bold=True)]
    lines.append("  " + ", ".join(fact for fact in facts if fact))
    if document.reason is not None:
        lines.append(f"  dropped: {document.reason} ({printable(document.value or '')})")
    if document.text is None:
        lines.append("  | (its text was never read)")
    else:
        text = document.text + ("…" if document.cut else "")
        lines += [f"  | {printable(line)}" for line in text.splitlines()]
    return "\n".join(lines) + "\n"


def printable(text: str) -> str:
    """The text without control characters, which could command the terminal."""
    return "".join(c if c.isprintable() or c == "\t" else "�" for c in text)
