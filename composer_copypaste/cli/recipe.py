"""``copypaste recipe``: lists recipes, and shows and checks one."""

import click

# ruff: noqa: D301 - click keeps the line breaks of a paragraph after a real \b


@click.group(name="recipe")
def command() -> None:
    """List, show and check recipes.

    \b
    A recipe is a YAML file that states what differs from its base; KEY=VALUE overrides come on top:
      copypaste recipe show finetune optimizer.lr=1e-3
    """


@command.command("list")
def list_() -> None:
    """Print the shipped recipes and ablations.

    \b
    Example:
      copypaste recipe list
    """
    from composer_copypaste.recipes.load import describe_recipe, shipped_recipes

    for command, files in (("train", shipped_recipes()), ("ablate", shipped_recipes("ablations"))):
        click.echo(f"copypaste {command}:")
        width = max(map(len, files), default=0)
        for name, file in files.items():
            click.echo(f"  {name:{width}}  {describe_recipe(file)}")


@command.command()
@click.argument("recipe", metavar="RECIPE")
@click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
def show(recipe: str, overrides: tuple[str, ...]) -> None:
    """Check a recipe, and print it complete.

    RECIPE is a file or the name of a shipped recipe; its bases, overrides and defaults are merged.

    \b
    Example:
      copypaste recipe show quickstart training.duration=100ba > my.yaml

    Writes nothing but what it prints, itself a recipe.
    """
    from composer_copypaste.recipes.load import load_recipe, recipe_to_yaml

    click.echo(recipe_to_yaml(load_recipe(recipe, overrides)), nl=False)


@command.command()
@click.option("--ablation", is_flag=True, help="Print the schema of ablations instead.")
def schema(ablation: bool) -> None:
    """Print the JSON Schema of recipes.

    With it, editors complete and check them.

    \b
    Example:
      copypaste recipe schema > recipes/schema.json
    and, as the first line of a recipe in the same folder:
      # yaml-language-server: $schema=schema.json
    """
    import json

    from composer_copypaste.recipes.ablation import ablation_schema
    from composer_copypaste.recipes.load import recipe_schema

    click.echo(json.dumps(ablation_schema() if ablation else recipe_schema(), indent=2))
