"""The commands of README, of the book and of the examples, typed as a reader does."""

import os
import subprocess
import sys

import pytest
from harness import ROOT

pytestmark = pytest.mark.timeout(300)

PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("examples/**/*.md"))]


@pytest.mark.parametrize("page", [str(page.relative_to(ROOT)) for page in PAGES if "\n```" in page.read_text()])
def test_a_reader_gets_what_the_page_says(binary, page):
    command = [sys.executable, str(ROOT / "scripts/check-book"), str(ROOT / page)]
    done = subprocess.run(command, env={**os.environ, "REJOINDER_BIN": str(binary)}, capture_output=True, text=True, timeout=290)
    if done.returncode == 77:
        pytest.skip(done.stdout.removeprefix("SKIP: ").strip())
    assert done.returncode == 0, done.stderr
    print(done.stdout)


@pytest.mark.parametrize("text, problem", [
    ("```sh\nfalse\n```\n", "exit code 1, not 0"),
    ("<!-- prints: two -->\n```sh\necho one\n```\n", "does not print 'two'"),
    ("<!-- prits: two -->\n```sh\necho one\n```\n", "nobody knows"),
    ("```toml\na = \n```\n", "does not parse"),
    ("```sh\nexport A=1\n```\n<!-- exits: 3 -->\n```sh\nexit $A\n```\n", "exit code 1, not 3"),
])
def test_a_page_that_is_wrong_is_found(binary, tmp_path, text, problem):
    page = tmp_path / "page.md"
    page.write_text(text)
    done = subprocess.run([sys.executable, str(ROOT / "scripts/check-book"), str(page)],
                          env={**os.environ, "REJOINDER_BIN": str(binary)}, capture_output=True, text=True, timeout=100)
    if done.returncode == 77:
        pytest.skip(done.stdout.removeprefix("SKIP: ").strip())
    assert done.returncode == 1 and problem in done.stderr, (done.stdout, done.stderr)
