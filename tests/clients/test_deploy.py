"""`scripts/check-deploy` takes the files of deploy/ as they are, and finds a mistake in each."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from harness import ROOT

pytestmark = pytest.mark.timeout(120)

# the file, what stands there, what is put in its place, and what the check says of it
MISTAKES = [
    ("systemd/rejoinder.service", "Type=notify", "Typ=notify", "'Typ'"),
    ("systemd/rejoinder.service", "SystemCallFilter=@system-service\nSystemCallFilter=~@privileged @resources\n", "ProtectSystem=no\nDynamicUser=no\nUser=root\n", "ProtectSystem="),
    ("systemd/rejoinder.socket", "ListenStream=127.0.0.1:8081", "ListenStream=nowhere", "nowhere"),
    ("prometheus/alerts.yml", "expr: rejoinder_waiting > 0", "expr: rejoinder_waiting >", "RejoinderQueues"),
    ("nginx/rejoinder.conf", "proxy_next_upstream error", "proxy_next_upstream errors", '"errors"'),
    ("compose/single/compose.yaml", "restart: unless-stopped", "restarts: unless-stopped", "restarts"),
    ("compose/single/compose.yaml", "depends_on: [llama-server]", "depends_on: [llama]", "depends on llama"),
    ("compose/replicas/compose.yaml", "../../nginx/rejoinder.conf:", "../nginx/rejoinder.conf:", "which is not there"),
    ("compose/replicas/compose.yaml", "REJOINDER_STORE__URL: redis:", "REJOINDER_STORE__URL: http:", "store.url"),
    ("compose/replicas/compose.yaml", "stop_grace_period: 1m", "stop_grace_period: 40s", "is killed after 40 s"),
    ("kubernetes/deployment.yaml", "readOnlyRootFilesystem", "readonlyRootFilesystem", "readonlyRootFilesystem"),
    ("kubernetes/deployment.yaml", "port: admin", "port: probes", "no port probes"),
    ("kubernetes/deployment.yaml", "terminationGracePeriodSeconds: 155", "terminationGracePeriodSeconds: 60", "is killed after 60 s"),
    ("kubernetes/configmap.yaml", "drain_delay =", "drain_wait =", "drain_wait"),
    ("kubernetes/service.yaml", "  selector:\n    app.kubernetes.io/name: rejoinder", "  selector:\n    app.kubernetes.io/name: other", "selects no pod"),
    ("kubernetes/horizontalpodautoscaler.yaml", 'averageValue: "1000"', "averageValues: 1000", "averageValues"),
    ("kubernetes/poddisruptionbudget.yaml", "maxUnavailable: 1", "maxUnavailables: 1", "maxUnavailables"),
    ("kubernetes/networkpolicy.yaml", "policyTypes: [Ingress, Egress]", "policyTypes: Ingress", "policyTypes"),
]


@pytest.fixture
def checked(binary, tmp_path):
    """A copy of what is checked; `checked.run()` checks it."""
    shutil.copytree(ROOT / "deploy", tmp_path / "deploy")
    shutil.copytree(ROOT / "scripts", tmp_path / "scripts")
    shutil.copy(ROOT / "Dockerfile", tmp_path)
    (tmp_path / ".venv").symlink_to(sys.prefix)

    def run():
        env = {**os.environ, "REJOINDER_BIN": str(binary)}
        done = subprocess.run([tmp_path / "scripts/check-deploy"], env=env, capture_output=True, text=True, timeout=100)
        return done.returncode, done.stdout + done.stderr

    run.folder = tmp_path / "deploy"
    return run


def test_the_files_are_right(checked):
    code, output = checked()
    assert code == 0, output


@pytest.mark.parametrize("file, old, new, says", MISTAKES, ids=[f"{Path(m[0]).name}-{i}" for i, m in enumerate(MISTAKES)])
def test_a_mistake_is_found(checked, file, old, new, says):
    path = checked.folder / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    code, output = checked()
    skipped = [line for line in output.splitlines() if line.startswith("SKIP") and f"deploy/{file.split('/')[0]}" in line]
    if code == 0 and skipped:
        pytest.skip(skipped[0].removeprefix("SKIP: "))
    assert code != 0 and says in output, output
