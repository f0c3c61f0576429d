"""``copypaste ablate``."""

import shlex

import click

from composer_copypaste.cli import RESUME_COMMAND, program, say_loading

# ruff: noqa: D301 - click keeps the line breaks of a paragraph after a real \b


@click.command
@click.argument("ablation")
@click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("--jobs", type=click.IntRange(min=1), default=1, help="Number of trainings at the same time; default: 1.")
@click.option("--dask", metavar="ADDRESS", help="Train on the workers of this Dask scheduler.")
@click.option("--smoke", is_flag=True, help="See in minutes that everything runs: each run trains the small network, "
              "whatever its backbone, for 30 batches of 4 drawn images of 128 pixels, with two seeds and at most two "
              "fractions; its scores say nothing.")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Check everything, and list the trainings; train nothing.")
@click.option("--report", is_flag=True, help="Train nothing; write the tables of the finished trainings again.")
def command(  # noqa: PLR0913 - click gives each option by its name
    ablation: str, overrides: tuple[str, ...], jobs: int, dask: str | None, smoke: bool, dry_run: bool, report: bool
) -> None:
    """Train runs that differ in a few keys, and compare them.

    ABLATION is a YAML file or the name of a shipped ablation; KEY=VALUE changes one of its keys, such as base=RECIPE,
    seeds=[1,2,3] or common.training.duration=1000ba; runs.NAME=null leaves a run out.

    \b
    Example:
      copypaste ablate low_data --smoke
      copypaste ablate low_data base=my_recipe.yaml --jobs 4

    It writes runs/ABLATION, or the folder that output=DIR names: a folder for each training, the fractions of the
    annotations, report.html, and results.json, .csv, .md and .png. The same command continues an ablation that was
    interrupted, and trains only what has changed or is new.
    """
    from composer_copypaste.recipes.ablation import load_ablation
    from composer_copypaste.recipes.files import check_named_files

    loaded = load_ablation(ablation, overrides, smoke=smoke)
    if not report:
        for each in loaded.recipes.values():
            check_named_files(each)

    say_loading(f"ablate into {loaded.output}", composer=True)
    from composer_copypaste.runs.ablation.run import describe_ablation, report_ablation, run_ablation

    if dry_run:
        click.echo(describe_ablation(loaded))
        return

    from composer_copypaste.errors import UserError, count_noun
    from composer_copypaste.runs.ablation.report import console_table

    options = [*(["--jobs", str(jobs)] if jobs > 1 else []), *(["--dask", dask] if dask else [])]
    again = [program(), "ablate", ablation, *overrides, *(["--smoke"] if smoke else []), *options]
    click.get_current_context().meta[RESUME_COMMAND] = shlex.join(again)
    summary = report_ablation(loaded) if report else run_ablation(loaded, jobs=jobs, dask=dask)
    endings = ".csv, .md and .png" if summary.comparisons else ".csv and .md"
    click.echo(f"\n{console_table(summary)}\n\n{loaded.output}: report.html, results.json, {endings}")
    if summary.failed:
        raise UserError(
            f"{count_noun(len(summary.failed), 'training')} of the ablation failed; the last lines of each are above. "
            "The same command trains it again"
        )
