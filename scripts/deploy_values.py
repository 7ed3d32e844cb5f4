"""Check of deploy/ what no schema knows: that the binary takes each configuration, that names lead somewhere, and that
nobody ends a process before its drain is over."""

import os
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
DEPLOY = ROOT / "deploy"
# what the drain may take beside drain_delay and drain_timeout: last words, and slots that are saved
REST = 22
# an example of `openssl rand -base64 32`
KEY = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=\n"


def binary():
    named = os.environ.get("REJOINDER_BIN")
    target = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target")
    found = [Path(named)] if named else [target / kind / "rejoinder" for kind in ("release", "debug")]
    return max((path for path in found if path.exists()), key=lambda path: path.stat().st_mtime, default=None)


def seconds(text):
    units = {"s": 1, "m": 60, "h": 3600}
    parts = re.findall(r"(\d+)([smh])", str(text))
    assert "".join(a + b for a, b in parts) == str(text), f"{text!r} is not a duration of seconds, minutes, hours"
    return sum(int(number) * units[unit] for number, unit in parts)


def drain(config, grace, where):
    """`grace`: seconds between SIGTERM and SIGKILL."""
    needed = seconds(config.get("drain_delay", "0s")) + seconds(config.get("drain_timeout", "30s")) + REST
    if grace < needed:
        yield f"{where}: the process is killed after {grace} s, its drain may take {needed} s"


def accepted(where, folder, text="", variables=None):
    """What the binary finds wrong with a configuration file and variables."""
    program = binary()
    if program is None:
        print(f"SKIP: no rejoinder binary, so the configuration of {where} is not checked (cargo build)")
        return
    (folder / "keys").write_text(KEY)
    (folder / "rejoinder.toml").write_text(re.sub(r"(?m)^keys_file = .*$", f'keys_file = "{folder}/keys"', text))
    environment = {"PATH": os.environ["PATH"], **(variables or {})}
    if "REJOINDER_KEYS_FILE" in environment:
        environment["REJOINDER_KEYS_FILE"] = f"{folder}/keys"
    command = [program, "check-config", "--config", folder / "rejoinder.toml"]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        yield f"{where}: rejoinder check-config: {(done.stdout + done.stderr).strip()}"


def compose(path, folder):
    project = yaml.safe_load(path.read_text())
    name, services = path.relative_to(ROOT), project["services"]
    for service, has in services.items():
        where = f"{name}: {service}"
        for other in has.get("depends_on", []):
            if other not in services:
                yield f"{where} depends on {other}, which is no service"
        for volume in has.get("volumes", []):
            source = volume.split(":")[0]
            there = (path.parent / source).exists() if source.startswith(".") else source in project.get("volumes", {})
            if not there:
                yield f"{where} mounts {source}, which is not there"
        if "build" not in has:
            continue
        if not (path.parent / has["build"] / "Dockerfile").is_file():
            yield f"{where} is built from {has['build']}, where there is no Dockerfile"
        variables = has.get("environment", {})
        yield from accepted(where, folder, variables=variables)
        config = {key.removeprefix("REJOINDER_").lower(): value for key, value in variables.items()}
        yield from drain(config, seconds(has.get("stop_grace_period", "10s")), where)


def kubernetes(folder):
    objects = {}
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")):
        one = yaml.safe_load(path.read_text())
        objects[one["kind"], one["metadata"]["name"]] = one["spec"] if "spec" in one else one["data"]
    deployment = objects["Deployment", "rejoinder"]
    labels, pod = deployment["template"]["metadata"]["labels"], deployment["template"]["spec"]
    (container,) = pod["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}

    def selects(selector, where):
        if not selector.items() <= labels.items():
            yield f"deploy/kubernetes: {where} selects no pod of the Deployment"

    def port(of, where):
        if of not in ports and of not in ports.values():
            yield f"deploy/kubernetes: {where}: the container has no port {of}"

    yield from selects(deployment["selector"]["matchLabels"], "the Deployment")
    yield from selects(objects["Service", "rejoinder"]["selector"], "the Service")
    yield from selects(objects["PodDisruptionBudget", "rejoinder"]["selector"]["matchLabels"], "the PodDisruptionBudget")
    policy = objects["NetworkPolicy", "rejoinder"]
    yield from selects(policy["podSelector"]["matchLabels"], "the NetworkPolicy")
    for rule in policy["ingress"]:
        for one in rule["ports"]:
            yield from port(one["port"], "the NetworkPolicy")
    for one in objects["Service", "rejoinder"]["ports"]:
        yield from port(one["targetPort"], "the Service")
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        yield from port(container[probe]["httpGet"]["port"], probe)
    target = objects["HorizontalPodAutoscaler", "rejoinder"]["scaleTargetRef"]
    if (target["kind"], target["name"]) not in objects:
        yield f"deploy/kubernetes: the HorizontalPodAutoscaler scales {target}, which is not there"
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    for mount in container["volumeMounts"]:
        if mount["name"] not in volumes:
            yield f"deploy/kubernetes: there is no volume {mount['name']}"
    for volume in volumes.values():
        if "configMap" in volume and ("ConfigMap", volume["configMap"]["name"]) not in objects:
            yield f"deploy/kubernetes: there is no ConfigMap {volume['configMap']['name']}"
    text = objects["ConfigMap", "rejoinder"]["rejoinder.toml"]
    config = tomllib.loads(text)
    for key, name in (("listen", "http"), ("admin", "admin")):
        if not config[key].endswith(f":{ports[name]}"):
            yield f"deploy/kubernetes: {key} = {config[key]!r}, but the port {name} is {ports[name]}"
    yield from accepted("deploy/kubernetes/configmap.yaml", folder, text)
    yield from drain(config, pod["terminationGracePeriodSeconds"], "deploy/kubernetes/deployment.yaml")


def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        problems = [*kubernetes(folder)]
        for path in sorted(DEPLOY.glob("compose/*/compose.yaml")):
            problems += compose(path, folder)
    for problem in problems:
        print(problem, file=sys.stderr)
    if not problems:
        print("deploy/compose, deploy/kubernetes: ok")
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main())
