"""Damaged inputs of each kind are used or refused; `damaged_inputs.py` says how, and tries more of them."""

import os
import subprocess
import sys

import damaged_inputs


def test_damaged_inputs_are_used_or_refused_with_a_message_of_ours():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, damaged_inputs.__file__, "--count", "100"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(" 0 failed") == len(damaged_inputs.DOORS)


def test_an_error_that_is_raised_by_chance_is_not_taken_for_a_message():
    def error_of(call):
        try:
            call()
        except Exception as error:  # noqa: BLE001 - it is looked at
            return error

    from composer_copypaste import PastePlan

    assert damaged_inputs.is_ours(error_of(lambda: PastePlan.from_json("{")))
    assert not damaged_inputs.is_ours(error_of(lambda: PastePlan.from_rows(7)))  # what Python says of a number
    assert not damaged_inputs.is_ours(error_of(lambda: int("a")))
