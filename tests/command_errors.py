"""What a command says when it refuses."""


def refused(result, *parts, lines=1):
    """Asserts exit code 2 and one message on stderr that has the parts, and nothing on stdout."""
    assert result.exit_code == 2, result.output
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == lines
    for part in parts:
        assert part in result.stderr
    assert result.stdout == ""
