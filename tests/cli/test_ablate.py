"""``copypaste ablate``: what it prints, and the exit code of an ablation with failed runs."""

from ablation_cases import write_ablation
from click.testing import CliRunner

from composer_copypaste.cli import main
from composer_copypaste.runs.ablation import run as ablate


def copypaste(*arguments):
    return CliRunner().invoke(main, ["ablate", *map(str, arguments)])


def test_a_dry_run_lists_the_trainings(tmp_path):
    result = copypaste(write_ablation(tmp_path), "--dry-run")
    assert result.exit_code == 0
    assert result.stdout.startswith("Equal work: each run trains 2 batches of 4 images")
    assert len([line for line in result.stdout.splitlines() if line.startswith(("baseline", "pasted"))]) == 8
    assert not (tmp_path / "out").exists()


def test_a_smoke_test_is_short_and_has_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = copypaste("low_data", "--smoke", "--dry-run")
    assert result.exit_code == 0, result.output
    assert "each run trains 30 batches" in result.stdout
    assert "8 trainings, 0 finished" in result.stdout


def test_failed_trainings_are_shown_with_their_last_lines_and_in_the_exit_code(tmp_path, monkeypatch):
    def fail(job):
        job.log.write_text("error: the loss was not finite\n")
        return 1, 1.0

    monkeypatch.setattr(ablate, "run_training", fail)
    result = copypaste(write_ablation(tmp_path, seeds=[1], fractions=[1.0]))
    assert result.exit_code == 2
    assert "error: the loss was not finite" in result.output
    assert result.stderr.splitlines()[-1].startswith("error: 2 trainings of the ablation failed")


def test_a_mistake_in_the_file_is_one_line(tmp_path):
    result = copypaste(write_ablation(tmp_path), "seeds=[]")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "error: seeds: expected at least one value, and each once, got [] (command line)\n"
