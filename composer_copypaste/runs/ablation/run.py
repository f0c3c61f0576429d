"""Runs an ablation: its trainings one after another, several at once, or on a cluster; then tables and a page."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from filelock import FileLock, Timeout
from tabulate import tabulate
from tqdm import tqdm

from composer_copypaste.data.image_groups import groups_in
from composer_copypaste.data.subsets import write_subset
from composer_copypaste.errors import OutputError, count_noun
from composer_copypaste.files import atomic_write, read_json
from composer_copypaste.integrations.dask import check_dask_installed, open_executor
from composer_copypaste.metrics.report import KINDS, format_percent
from composer_copypaste.output_folder import check_is_no_file
from composer_copypaste.processes import run_tasks
from composer_copypaste.recipes.ablation import Ablation, ablation_to_yaml
from composer_copypaste.runs.ablation.plan import PlannedRun, describe_equal_work, iou_types_of, plan_runs
from composer_copypaste.runs.ablation.report import write_report
from composer_copypaste.runs.ablation.results import AblationResults, FailedRun, FinishedRun, format_fraction
from composer_copypaste.runs.ablation.summary import AblationSummary
from composer_copypaste.runs.ablation.training_process import MachineShares, TrainingJob, run_training
from composer_copypaste.runs.augment.run import augment_data_set
from composer_copypaste.runs.data import coco_files, recipe_spelling
from composer_copypaste.runs.resume import describe_next_run, write_recipe

LAST_LINES = 5
"""Number of lines of its output that are shown of a training that failed."""


class AblationFolder:
    """The folder of an ablation, and the paths of its files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.settings = root / "ablation.yaml"
        self.timings = root / "timings.json"
        self.stop = root / ".stop"
        self.lock = root / ".lock"


def run_ablation(ablation: Ablation, *, jobs: int = 1, dask: str | None = None) -> AblationSummary:
    """Train what is not finished yet, and write tables and a page of all that is.

    A finished run is never trained again, an interrupted one continues, and one whose recipe or data has changed is
    trained in a new folder. A run that fails does not stop the others.

    Args:
        ablation: what `load_ablation` returned.
        jobs: number of trainings at the same time, on the GPUs in turn if there are any.
        dask: the address of a Dask scheduler whose workers train, one run at a time for each of their threads, in
            place of this machine.

    Raises:
        UserError: where a recipe, its data or the folder cannot be used; nothing is trained then.
    """
    if dask is not None:
        check_dask_installed()  # before anything is written
    folder = AblationFolder(ablation.output)
    _check_folder(folder)
    runs, groups = plan_runs(ablation), evaluation_groups(ablation)
    with _lock_folder(folder):
        with atomic_write(folder.settings) as unfinished:
            unfinished.write_text(ablation_to_yaml(ablation), encoding="utf-8")
        folder.stop.unlink(missing_ok=True)
        missing = [run for run in runs if not run.is_finished]
        logs = f"; their logs are {folder.root / 'trainings' / '*' / 'log.txt'}" if missing else ""
        tqdm.write(
            f"{folder.root}: {count_noun(len(runs), 'training')}, {len(runs) - len(missing)} of them finished{logs}"
        )
        failed = _train_missing_runs(folder, missing, jobs, dask)
        return _write_results(ablation, runs, groups, failed)


def report_ablation(ablation: Ablation) -> AblationSummary:
    """Write tables and a page of the runs that are finished; train nothing.

    Raises:
        UserError: as `run_ablation` does.
    """
    _check_folder(AblationFolder(ablation.output))
    runs = plan_runs(ablation)
    if not any(run.is_finished for run in runs):
        raise OutputError(f"{ablation.output}: no training of the ablation is finished; without --report it trains")
    return _write_results(ablation, runs, evaluation_groups(ablation))


def _check_folder(folder: AblationFolder) -> None:
    """Raise ``OutputError`` where the folder is none, or holds anything but an ablation."""
    root = folder.root
    check_is_no_file(root, "ablation")
    if root.exists() and any(root.iterdir()) and not folder.settings.exists():
        raise OutputError(f"{root}: expected a new or an empty folder for the ablation; give output=ANOTHER_FOLDER")


@contextmanager
def _lock_folder(folder: AblationFolder) -> Iterator[None]:
    """Keep other processes out of the folder."""
    folder.root.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder.lock, timeout=0):
            yield
    except Timeout:
        raise OutputError(
            f"{folder.root}: another process runs this ablation; wait for it, or give output=ANOTHER_FOLDER"
        ) from None


def _train_missing_runs(
    folder: AblationFolder, runs: Sequence[PlannedRun], jobs: int, dask: str | None
) -> list[FailedRun]:
    """Train the runs, and return those that failed."""
    machine = _share_machine(jobs, dask)
    by_job = {_prepare(run, folder, jobs, machine): run for run in runs}
    failed = []
    with open_executor(jobs, dask) as executor, _all_stop_together(folder):
        bar = tqdm(total=len(runs), desc="training", unit=" runs", disable=None)
        for job, (code, seconds) in run_tasks(executor, run_training, by_job):
            run = by_job[job]
            _add_seconds(folder, run, seconds)
            bar.update()
            if code == 0:
                bar.write(f"{run}: {_describe_scores(run)}")
            else:
                failed.append(FailedRun(run.name, run.fraction, run.seed, last_lines(run.log)))
                bar.write(f"{run}: failed; see {run.log}")
        bar.close()
    return failed


@contextmanager
def _all_stop_together(folder: AblationFolder) -> Iterator[None]:
    """When this process stops, so do the trainings: each sees the file, also on another machine."""
    try:
        yield
    except BaseException:
        folder.stop.touch()
        raise


def _prepare(run: PlannedRun, folder: AblationFolder, jobs: int, machine: MachineShares) -> TrainingJob:
    """Write what a training needs: its recipe, its fraction of the annotations, and its offline data set."""
    if run.subset is not None and not run.subset.path.exists():
        run.subset.path.parent.mkdir(parents=True, exist_ok=True)
        write_subset(run.subset.annotations, run.subset.image_ids, run.subset.path)
    if run.offline is not None:
        files, data = run.offline.files, run.recipe.data
        augment_data_set(
            run.offline.folder,
            cast(Path, files.images),
            cast(Path, files.annotations),
            run.offline.settings,
            crowds=data.crowds,
            bad_objects=data.bad_objects,
            spelling=recipe_spelling,
            image_settings=data.image_settings,
            processes=jobs,
        )
    write_recipe(run.folder, run.recipe)
    return TrainingJob(run.folder.recipe, run.log, folder.stop, machine)


def _share_machine(jobs: int, dask: str | None) -> MachineShares:
    """What each of several trainings at the same time is given of this machine; a cluster's workers decide that."""
    import torch

    if dask is not None or jobs == 1:
        return MachineShares()
    gpus = torch.cuda.device_count()
    if gpus:
        return MachineShares(gpus=tuple(str(job % gpus) for job in range(jobs)))
    return MachineShares(threads=max(1, (os.cpu_count() or 1) // jobs))


def last_lines(log: Path) -> tuple[str, ...]:
    """The last lines of a training's output, without those of its progress."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    return tuple(line for line in text.replace("\r", "\n").splitlines() if line.strip())[-LAST_LINES:]


def _describe_scores(run: PlannedRun) -> str:
    report = read_json(run.folder.evaluation, "file of scores")
    return ", ".join(
        f"AP of {kind} {format_percent(report[key]['AP'])}" for key, kind in KINDS.items() if key in report
    )


def read_timings(folder: AblationFolder) -> dict[str, float]:
    """The seconds that each run took so far, by the name of its folder."""
    return dict(read_json(folder.timings, "file of times")) if folder.timings.exists() else {}


def _add_seconds(folder: AblationFolder, run: PlannedRun, seconds: float) -> None:
    timings = read_timings(folder)
    name = run.folder.root.name
    with atomic_write(folder.timings) as unfinished:
        unfinished.write_text(json.dumps(timings | {name: timings.get(name, 0) + seconds}, indent=1))


def _write_results(
    ablation: Ablation,
    runs: Sequence[PlannedRun],
    groups: Mapping[int, str] | None,
    failed: Sequence[FailedRun] = (),
) -> AblationSummary:
    """Write what is known of the runs that are finished, those that failed, and those that are missing."""
    timings = read_timings(AblationFolder(ablation.output))
    finished = [run for run in runs if run.is_finished]
    results = AblationResults(
        title=ablation.name,
        baseline=ablation.baseline,
        runs=[
            FinishedRun(run.name, run.fraction, run.seed, run.folder, run.images, timings.get(run.folder.root.name))
            for run in finished
        ],
        failed=failed,
        missing=describe_missing_runs(runs, failed),
        equal_work=describe_equal_work(ablation, runs),
        group_of=groups,
        iou_types=iou_types_of(ablation),
    )
    return write_report(results, ablation.output)


def describe_missing_runs(runs: Sequence[PlannedRun], failed: Sequence[FailedRun]) -> list[str]:
    """The runs that are neither finished nor failed, such as "baseline at 10 % (seeds 1, 2)"."""
    ended = {(run.name, run.fraction, run.seed) for run in failed}
    seeds: dict[tuple[str, float], list[int]] = {}
    for run in runs:
        if not run.is_finished and (run.name, run.fraction, run.seed) not in ended:
            seeds.setdefault((run.name, run.fraction), []).append(run.seed)
    return [
        f"{name} at {format_fraction(fraction)} (seed{'s' * (len(missing) > 1)} {', '.join(map(str, missing))})"
        for (name, fraction), missing in seeds.items()
    ]


def evaluation_groups(ablation: Ablation) -> dict[int, str] | None:
    """The group of each evaluation image; None where images count one by one, as none has a group.

    Raises:
        DataError: where some images have a group, and others have none.
    """
    group, (_, files) = ablation.settings.group, coco_files(ablation.recipes[ablation.baseline].data)
    if group is None or files.annotations is None:
        return None
    content = read_json(files.annotations, "annotation file")
    grouped = any(image.get(group) is not None for image in content["images"])
    return groups_in(content, files.annotations, group) if grouped else None


def describe_ablation(ablation: Ablation) -> str:
    """What `run_ablation` would do, in words; nothing is written but drawn shapes.

    Raises:
        UserError: as `run_ablation` does.
    """
    folder = AblationFolder(ablation.output)
    _check_folder(folder)
    runs = plan_runs(ablation)
    seconds = seconds_per_batch(runs, read_timings(folder))
    rows = [
        [
            run.name,
            format_fraction(run.fraction),
            run.seed,
            run.images,
            run.steps,
            "finished" if run.is_finished else describe_next_run(run.folder),
            "" if run.is_finished or seconds is None else format_duration(run.steps * seconds),
        ]
        for run in runs
    ]
    left = [run for run in runs if not run.is_finished]
    table = tabulate(rows, ["run", "fraction", "seed", "images", "batches", "state", "about"], disable_numparse=True)
    return "\n".join((*describe_equal_work(ablation, runs), "", table, "", _describe_work(runs, left, seconds)))


def seconds_per_batch(runs: Sequence[PlannedRun], timings: Mapping[str, float]) -> float | None:
    """The mean over the finished runs, evaluations included; None where none is finished."""
    timed = [run for run in runs if run.is_finished and run.folder.root.name in timings]
    return sum(timings[run.folder.root.name] for run in timed) / sum(run.steps for run in timed) if timed else None


def format_duration(seconds: float) -> str:
    """Seconds as "2 h 05 min", "3 min" or "40 s"."""
    minutes = round(seconds / 60)
    if minutes >= 60:
        return f"{minutes // 60} h {minutes % 60:02} min"
    return f"{minutes} min" if minutes else f"{round(seconds)} s"


def _describe_work(runs: Sequence[PlannedRun], left: Sequence[PlannedRun], seconds: float | None) -> str:
    finished = f"{count_noun(len(runs), 'training')}, {len(runs) - len(left)} finished"
    if seconds is None:
        return f"{finished}; how long they take is known once one is finished"
    return f"{finished}; the others take about {format_duration(sum(run.steps for run in left) * seconds)}, one by one"
