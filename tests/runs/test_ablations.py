"""Running an ablation: what is finished is never trained again, what fails stops nothing, and Ctrl-C loses nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
from ablation_cases import small_ablation, write_ablation
from shapes_recipe import tiny_recipe

from composer_copypaste.errors import OutputError
from composer_copypaste.runs.ablation import run as ablate
from composer_copypaste.runs.ablation.plan import plan_runs
from composer_copypaste.runs.ablation.run import describe_ablation, format_duration, report_ablation, run_ablation
from composer_copypaste.runs.ablation.summary import summarise
from composer_copypaste.runs.folder import RunFolder
from composer_copypaste.runs.train import train


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> RunFolder:
    """A complete run."""
    place = tmp_path_factory.mktemp("trained")
    folder = RunFolder(place / "run")
    train(tiny_recipe(place), folder)
    return folder


@pytest.fixture
def trainings(trained, monkeypatch):
    """The folders that were trained, in their order, where training is a copy of a run that is complete already."""
    done = []

    def copy_run(job):
        done.append(job.recipe.parent.name)
        job.log.write_text("training\nerror: the loss was not finite\n")
        if "pasted-0.5-seed1" in job.recipe.parent.name and (job.stop.parent / "fail").exists():
            return 1, 1.0
        for path in trained.root.iterdir():
            if path.name != "recipe.yaml" and path.is_file():
                shutil.copyfile(path, job.recipe.parent / path.name)
        return 0, 30.0

    monkeypatch.setattr(ablate, "run_training", copy_run)
    monkeypatch.setattr(ablate, "write_report", lambda results, folder: summarise(results, resamples=2))
    return done


def test_each_run_is_trained_once(tmp_path, trainings):
    ablation = small_ablation(tmp_path)
    summary = run_ablation(ablation)
    assert len(trainings) == len(set(trainings)) == 8
    assert {(run.name, run.fraction, run.seeds) for run in summary.runs} == {
        (name, fraction, (1, 2)) for fraction in (0.5, 1.0) for name in ("baseline", "pasted")
    }
    assert not summary.missing
    trainings.clear()
    run_ablation(ablation)
    assert not trainings


def test_a_changed_run_is_trained_again_and_the_others_are_not(tmp_path, trainings):
    run_ablation(small_ablation(tmp_path))
    trainings.clear()
    run_ablation(small_ablation(tmp_path, "runs.pasted.copy_paste.p=0.7"))
    assert len(trainings) == 4
    assert all(name.startswith("pasted-") for name in trainings)
    trainings.clear()
    run_ablation(small_ablation(tmp_path))  # as it was at first: those runs are still there
    assert not trainings


def test_a_run_that_fails_is_reported_with_its_last_lines_and_stops_no_other(tmp_path, trainings):
    ablation = small_ablation(tmp_path)
    ablation.output.mkdir()
    (ablation.output / "ablation.yaml").touch()
    (ablation.output / "fail").touch()
    summary = run_ablation(ablation)
    assert sum(len(run.seeds) for run in summary.runs) == 7
    [failed] = summary.failed
    assert (failed.name, failed.fraction, failed.seed) == ("pasted", 0.5, 1)
    assert failed.last_lines[-1] == "error: the loss was not finite"
    (ablation.output / "fail").unlink()
    trainings.clear()
    assert not run_ablation(ablation).failed
    assert len(trainings) == 1


def test_the_fractions_that_were_drawn_are_written_down(tmp_path, trainings):
    ablation = small_ablation(tmp_path)
    run_ablation(ablation)
    for run in plan_runs(ablation):
        if run.subset is not None:
            written = json.loads(run.subset.path.read_text())
            assert tuple(image["id"] for image in written["images"]) == run.subset.image_ids


def test_an_offline_data_set_is_made_of_the_fraction_before_the_training(tmp_path, trainings):
    runs = {"baseline": {"copy_paste": None}, "doubled": {"copy_paste": None, "offline": {"per_image": 1}}}
    ablation = small_ablation(tmp_path, runs=runs, seeds=[1], fractions=[0.5])
    run_ablation(ablation)
    [doubled] = [run for run in plan_runs(ablation) if run.name == "doubled"]
    made = json.loads(doubled.recipe.data.train.annotations.read_text())
    assert len(made["images"]) == 2 * doubled.images


def test_a_report_is_of_what_is_finished(tmp_path, trainings):
    ablation = small_ablation(tmp_path, seeds=[1])
    run_ablation(ablation)
    trainings.clear()
    summary = report_ablation(small_ablation(tmp_path, seeds=[1, 2]))
    assert not trainings
    assert len(summary.runs) == 4
    assert summary.missing[0] == "baseline at 50 % (seed 2)"


def test_a_report_of_nothing_is_one_line(tmp_path):
    with pytest.raises(OutputError, match="out: no training of the ablation is finished"):
        report_ablation(small_ablation(tmp_path))


def test_the_dry_run_lists_all_trainings_and_writes_nothing(tmp_path, trainings):
    ablation = small_ablation(tmp_path)
    text = describe_ablation(ablation)
    assert text.count("from the beginning") == 8
    assert "8 trainings, 0 finished; how long they take is known once one is finished" in text
    assert not ablation.output.exists()


def test_the_dry_run_estimates_the_time_from_finished_runs(tmp_path, trainings):
    run_ablation(small_ablation(tmp_path, seeds=[1]))
    text = describe_ablation(small_ablation(tmp_path, seeds=[1, 2]))
    assert text.count("finished\n") + text.count("finished ") >= 4
    assert "8 trainings, 4 finished; the others take about 2 min, one by one" in text  # 4 of 30 s


@pytest.mark.parametrize(
    ("seconds", "text"), [(29.0, "29 s"), (100.0, "2 min"), (3600.0, "1 h 00 min"), (7500.0, "2 h 05 min")]
)
def test_durations_are_written_as_one_says_them(seconds, text):
    assert format_duration(seconds) == text


def test_a_folder_with_something_else_is_refused(tmp_path, trainings):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").touch()
    with pytest.raises(OutputError, match=r"out: expected a new or an empty folder for the ablation; give output="):
        run_ablation(small_ablation(tmp_path))
    assert not trainings


def test_two_processes_do_not_run_one_ablation(tmp_path, trainings, monkeypatch):
    ablation = small_ablation(tmp_path)
    copy_run = ablate.run_training

    def run_again(job):
        with pytest.raises(OutputError, match="out: another process runs this ablation"):
            run_ablation(ablation)
        return copy_run(job)

    monkeypatch.setattr(ablate, "run_training", run_again)
    assert not run_ablation(ablation).missing


def command(file, *options):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    arguments = [sys.executable, "-m", "composer_copypaste.cli", "ablate", str(file), *options]
    return subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def begun(folder):
    """How often a training of the ablation has begun or was resumed."""
    text = "".join(log.read_text() for log in folder.glob("out/trainings/*/log.txt"))
    return text.count("training into") + text.count("resuming")


@pytest.mark.slow
def test_killed_and_interrupted_ablations_continue(tmp_path):
    file = write_ablation(tmp_path, seeds=[1], fractions=[1.0])
    for stop in (signal.SIGKILL, signal.SIGINT):
        before, running = begun(tmp_path), command(file, "--jobs", "2")
        while begun(tmp_path) == before:
            assert running.poll() is None
            time.sleep(0.02)
        running.send_signal(stop)
        _, error = running.communicate()
    assert f"interrupted; to go on: copypaste ablate {file} --jobs 2" in error
    running = command(file, "--jobs", "2")
    _, error = running.communicate()
    assert running.returncode == 0, error
    assert all(run.is_finished for run in plan_runs(small_ablation(tmp_path, seeds=[1], fractions=[1.0])))


@pytest.mark.slow
def test_an_ablation_runs_on_the_workers_of_a_cluster(tmp_path):
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        summary = run_ablation(small_ablation(tmp_path, seeds=[1], fractions=[1.0]), dask=cluster.scheduler_address)
    assert [run.name for run in summary.runs] == ["baseline", "pasted"]
    assert not summary.failed


@pytest.mark.slow
def test_an_ablation_on_a_cluster_is_interrupted_and_goes_on_without_repetition(tmp_path):
    distributed = pytest.importorskip("distributed")
    file = write_ablation(tmp_path, seeds=[1], fractions=[1.0])
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster:
        arguments = (file, "--dask", cluster.scheduler_address)
        running = command(*arguments)
        while not list(tmp_path.glob("out/trainings/*/checkpoints/*.pt")):
            assert running.poll() is None
            time.sleep(0.02)
        running.send_signal(signal.SIGINT)
        _, error = running.communicate()
        assert running.returncode == 130
        assert error.splitlines()[-1].startswith(f"interrupted; to go on: copypaste ablate {file} --dask tcp://")
        assert "Traceback" not in error
        running = command(*arguments)
        _, error = running.communicate()
    assert running.returncode == 0, error
    runs = plan_runs(small_ablation(tmp_path, seeds=[1], fractions=[1.0]))
    for run in runs:
        batches = [json.loads(line)["batch"] for line in run.folder.metrics.read_text().splitlines() if "loss/" in line]
        assert batches == sorted(set(batches))
    assert any("resuming" in run.log.read_text() for run in runs)
