"""The coding agents, each in a folder and a home of its own, and the table of what they did."""

import subprocess
from functools import cache

import pytest
from harness import client_env
from programs import PROGRAMS

TABLE = {}  # in the order of the first run of each row


@cache
def version(program):
    """-> (version, None), or (None, why it does not run here)."""
    try:
        shown = subprocess.run([*map(str, program.program), "--version"], capture_output=True, text=True, timeout=60,
                               env=client_env("/nonexistent"))
    except (OSError, subprocess.TimeoutExpired) as e:
        return None, str(e)
    if shown.returncode != 0:
        return None, " ".join((shown.stdout + shown.stderr).split())[-300:]
    return next((word.strip(".") for word in shown.stdout.split() if word[0].isdigit()), shown.stdout.strip()), None


class Session:
    """One program, one home, one folder: what a test starts, more than once if it likes."""

    def __init__(self, program, home, project):
        self.program, self.home, self.project = program, home, project

    def start(self, proxy, prompt, **how):
        return self.program.start(proxy, prompt, self.home, self.project, **how)


@pytest.fixture(params=PROGRAMS, ids=lambda program: program.name.split()[0].lower())
def agent(request, home, project):
    _, reason = version(request.param)
    if reason:
        pytest.skip(f"{request.param.name} does not run here (npm ci in tests/clients/coding_agents?): {reason}")
    return Session(request.param, home, project)


@pytest.fixture
def did(request, agent):
    """`did("what")` is the row of this test in the table, once the test has passed."""
    rows = request.node._did = []
    return rows.append


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    report = (yield).get_result()
    if report.when == "call" or report.skipped or report.failed:
        program = item.callspec.params["agent"]
        check = item.function.__doc__.strip().split("\n")[0].rstrip(".")
        what = report.longrepr[2] if report.skipped else "; ".join(getattr(item, "_did", []))
        TABLE[program.name, version(program)[0] or "-", check, "**fails**" if report.failed else what] = True


def pytest_terminal_summary(terminalreporter):
    if TABLE:
        terminalreporter.write_line("\n| program | version | check | what it did |\n| --- | --- | --- | --- |")
        for row in sorted(TABLE, key=lambda row: [p.name for p in PROGRAMS].index(row[0])):
            terminalreporter.write_line(f"| {' | '.join(row)} |")
