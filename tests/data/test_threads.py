"""Calls in several threads, which nothing waits for when the program is to end."""

import signal
import subprocess
import sys
import time

import pytest

from composer_copypaste.data.image_files import in_threads

HANGS = """
import sys, threading
from composer_copypaste.data.image_files import in_threads

def hang(item):
    if item == 1:
        print("hangs", flush=True)
    threading.Event().wait()

try:
    in_threads(hang, [1, 2], 2)
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("threads", [1, 4])
def test_results_are_in_the_order_of_the_items(threads):
    def slow_first(item):
        time.sleep(0.05 * (item == 0))
        return 2 * item

    assert in_threads(slow_first, range(9), threads) == [*range(0, 18, 2)]
    assert in_threads(slow_first, [], threads) == []


def test_an_error_of_a_call_is_raised():
    def refuse(item):
        raise ValueError(f"item {item}")

    with pytest.raises(ValueError, match="item 7"):
        in_threads(refuse, [7, 8], 2)


def test_ctrl_c_ends_a_program_whose_calls_hang():
    with subprocess.Popen([sys.executable, "-c", HANGS], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "hangs\n"
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=20) == 130
        finally:
            process.kill()  # it would hang for ever
