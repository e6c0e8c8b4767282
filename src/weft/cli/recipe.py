"""``weft recipe``: from labelled data to a measured model with one command."""

from __future__ import annotations

from pathlib import Path

import click

from weft.cli.command import Record, weft_command


@weft_command("recipe")
@click.argument("name", required=False)
@click.option("--data", type=click.Path(path_type=Path), help="The folder that holds the usual files.")
@click.option("--set", "given", multiple=True, metavar="NAME=FILE", help="A file in place of the usual one.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the results.  [default: runs/NAME]")
@click.option("--quick", is_flag=True, help="A few training steps only, to see that all fits together.")
@click.option("--serve", is_flag=True, help="Serve what was trained, where the recipe says how.")
def command(
    name: str | None, data: Path | None, given: tuple[str, ...], out: Path | None, quick: bool, serve: bool
) -> Record:
    """Run the recipe NAME, one that comes with Weft or a .toml file; without NAME, list them."""
    from weft.core.errors import UsageError
    from weft.recipes import steps

    if name is None:
        found = [steps.load(one) for one in steps.names()]
        for recipe in found:
            click.echo(f"{recipe.name:<22}{recipe.title.get('en', '')} / {recipe.title.get('zh', '')}")
            for need, usual in recipe.needs.items():
                click.echo(f"{'':<22}  {need}: {usual or '(yours)'}")
        return {"recipes": [recipe.name for recipe in found]}
    recipe = steps.load(name)
    files = {}
    for text in given:
        need, equals, file = text.partition("=")
        if not equals or not file:
            raise UsageError(f"--set {text} is no NAME=FILE.")
        files[need] = Path(file)
    if serve and not recipe.serves:
        raise UsageError(f"The recipe {recipe.name} does not say how to serve; leave --serve out.")
    folder = out or Path("runs") / recipe.name
    chosen = recipe.files(data, files)
    steps.run(recipe, chosen, folder, quick=quick, say=lambda text: click.echo(text, err=True), serve=serve)
    return {"recipe": recipe.name, "out": str(folder)}
