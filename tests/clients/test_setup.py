"""`rejoinder setup` and `rejoinder launch` with the real clients, from an empty home."""

import json
import os
import shutil
from pathlib import Path

import pytest
from coding_agents.programs import OpenCode
from harness import client_env, offline_env, run
from scripted import MODEL, N_CTX, answer

SAID = "Hello from the upstream."
AWKWARD = "# mine\r\napproval_policy = \"never\" # as I like it\r\n\r\n[projects.\"/a\"]\r\ntrust_level = 'trusted'"


@pytest.fixture
def setup(binary, home, project):
    """`setup(proxy, "codex", "--write")` runs the command for that proxy in the test's home."""

    def start(proxy, *arguments, command="setup", env=None, code=0):
        env = env or client_env(home)
        finished = run([binary, command, *arguments[:1], "--listen", f"127.0.0.1:{proxy.port}", *arguments[1:]], env, project)
        assert finished.code == code, str(finished)
        return finished

    return start


@pytest.fixture
def codex(codex_bin, home, project):
    def start(*more):
        command = [codex_bin, "exec", "--strict-config", "--skip-git-repo-check", *more, "say hi"]
        return run(command, offline_env(home), project)

    return start


@pytest.fixture
def opencode(home, project):
    program = OpenCode.program[0]
    if not program.exists():
        pytest.skip("opencode is not here: npm ci in tests/clients/coding_agents")

    def start(*more):
        env = offline_env(home, OPENCODE_DISABLE_AUTOUPDATE="1", OPENCODE_DISABLE_MODELS_FETCH="1",
                          OPENCODE_DISABLE_LSP_DOWNLOAD="1")
        return run([program, "run", "--format", "json", *more, "say hi"], env, project)

    return start


def files(home, folder):
    """What is in the home that the setup may have put there."""
    return sorted(p.name for p in (home / folder).iterdir() if "rejoinder" in p.name)


def without_metadata_warning(finished):
    assert finished.code == 0 and SAID in finished.out, str(finished)
    said = (finished.out + finished.err).lower()
    assert "metadata" not in said and "fallback" not in said, str(finished)


@pytest.mark.parametrize("before", [None, "", AWKWARD], ids=["no file", "empty", "a file"])
def test_codex_answers_without_a_warning_and_the_file_is_restored(setup, codex, proxy, upstream, home, before):
    upstream.script(repeat=answer(SAID))
    config = home / ".codex" / "config.toml"
    if before is not None:
        config.parent.mkdir()
        config.write_bytes(before.encode())
    written = setup(proxy, "codex", "--write")
    assert "+model_provider" in written.out and str(config) in written.err, str(written)
    first = config.read_bytes()
    assert "nothing to change" in setup(proxy, "codex", "--write").out
    assert config.read_bytes() == first
    without_metadata_warning(codex())
    assert config.read_bytes() == first, "Codex itself changed the file"
    setup(proxy, "codex", "--undo")
    assert config.read_bytes() == before.encode() if before is not None else not config.exists()
    assert files(home, ".codex") == []
    assert "nothing to undo" in setup(proxy, "codex", "--undo", code=1).err


def test_codex_learns_the_context_and_gets_no_search(setup, codex, proxy, upstream, home):
    upstream.script(repeat=answer(SAID))
    setup(proxy, "codex", "--write")
    without_metadata_warning(codex())
    tools = [tool["function"]["name"] for tool in upstream.chats[-1].json["tools"]]
    assert "apply_patch" in tools and "web_search" not in tools, tools
    cache = json.loads((home / ".codex" / "models_cache.json").read_text())
    assert [(m["slug"], m["context_window"]) for m in cache["models"]] == [(MODEL, N_CTX)]


def test_codex_keeps_its_default_and_has_a_profile(setup, codex, proxy, upstream, home):
    upstream.script(repeat=answer(SAID))
    config = home / ".codex" / "config.toml"
    config.parent.mkdir()
    config.write_bytes(AWKWARD.encode())
    setup(proxy, "codex", "--write", "--keep-default")
    assert config.read_bytes() == AWKWARD.encode()
    without_metadata_warning(codex("-p", "rejoinder"))
    setup(proxy, "codex", "--undo")
    assert files(home, ".codex") == []


def test_codex_with_a_key(setup, codex_bin, rejoinder, upstream, binary, home, project, tmp_path):
    upstream.script(repeat=answer(SAID))
    clients = tmp_path / "clients.toml"
    key = run([binary, "keys", "add", "anna", "--file", clients], client_env(home), project).out.strip()
    proxy = rejoinder(upstream.url, auth__mode="keys", auth__keys_file=clients)
    refused = setup(proxy, "codex", "--write", code=1)
    assert "--key-env" in refused.err and not (home / ".codex").exists(), str(refused)
    env = client_env(home, LOCAL_KEY=key)
    setup(proxy, "codex", "--write", "--key-env", "LOCAL_KEY", env=env)
    assert key not in (home / ".codex" / "config.toml").read_text()
    command = [codex_bin, "exec", "--strict-config", "--skip-git-repo-check", "say hi"]
    without_metadata_warning(run(command, offline_env(home, LOCAL_KEY=key), project))


def test_droid_answers_and_its_file_is_restored(setup, droid_bin, proxy, upstream, home, project):
    upstream.script(repeat=answer(SAID))
    settings = home / ".factory" / "settings.json"
    before = b'{\r\n  "theme": "dark",\r\n  "customModels": [\r\n    {"model": "other", "id": "custom:other-0", "index": 0,' \
             b' "displayName": "o", "provider": "openai", "baseUrl": "http://127.0.0.1:9/v1", "apiKey": "k"}\r\n  ]\r\n}'
    for text in (None, before):
        if text is not None:
            settings.write_bytes(text)
        said = setup(proxy, "droid", "--write").err
        name = f"custom:rejoinder-{MODEL}"
        assert name in said, said
        written = settings.read_bytes()
        assert "nothing to change" in setup(proxy, "droid", "--write").out
        finished = run([droid_bin, "exec", "-m", name, "say hi"], offline_env(home, FACTORY_API_KEY="fk-test"), project)
        assert finished.code == 0 and SAID in finished.out, str(finished)
        if settings.read_bytes() == written:
            setup(proxy, "droid", "--undo")
            assert settings.read_bytes() == text if text is not None else not settings.exists()
            assert files(home, ".factory") == []
        else:
            pytest.fail(f"Droid itself changed the file:\n{settings.read_text()}")


def test_opencode_answers_and_its_file_is_restored(setup, opencode, proxy, upstream, home):
    upstream.script(repeat=answer(SAID))
    config = home / ".config" / "opencode" / "opencode.json"
    before = b'// mine\r\n{ "$schema": "https://opencode.ai/config.json", "share": "disabled", /* no */ }'
    for text in (None, before):
        if text is not None:
            config.write_bytes(text)
        setup(proxy, "opencode", "--write")
        written = config.read_bytes()
        assert "nothing to change" in setup(proxy, "opencode", "--write").out
        finished = opencode()
        assert finished.code == 0 and SAID in finished.out, str(finished)
        assert config.read_bytes() == written, "opencode itself changed the file"
        setup(proxy, "opencode", "--undo")
        assert config.read_bytes() == text if text is not None else not config.exists()
        assert files(home, ".config/opencode") == []


def test_a_client_is_launched_and_nothing_is_written(setup, codex_bin, droid_bin, proxy, upstream, home, tmp_path):
    upstream.script(repeat=answer(SAID))
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "codex").symlink_to(Path(codex_bin).resolve())
    (folder / "droid").symlink_to(droid_bin)
    env = offline_env(home, FACTORY_API_KEY="fk-test")
    env["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"
    without_metadata_warning(
        setup(proxy, "codex", "--", "exec", "--strict-config", "--skip-git-repo-check", "say hi", command="launch", env=env))
    assert not (home / ".codex" / "config.toml").exists()
    finished = setup(proxy, "droid", "--", "exec", "say hi", command="launch", env=env)
    assert SAID in finished.out, str(finished)
    assert files(home, ".factory") == []
    # the client's own exit code
    setup(proxy, "codex", "--", "exec", "--no-such-flag", command="launch", env=env, code=2)


def test_opencode_is_launched_and_nothing_is_written(setup, opencode, proxy, upstream, home):
    upstream.script(repeat=answer(SAID))
    env = offline_env(home, OPENCODE_DISABLE_AUTOUPDATE="1", OPENCODE_DISABLE_MODELS_FETCH="1",
                      OPENCODE_DISABLE_LSP_DOWNLOAD="1")
    env["PATH"] = f"{OpenCode.program[0].parent}{os.pathsep}{os.environ['PATH']}"
    finished = setup(proxy, "opencode", "--", "run", "--format", "json", "say hi", command="launch", env=env)
    assert SAID in finished.out, str(finished)
    assert not (home / ".config" / "opencode" / "opencode.json").exists()


def test_what_is_missing_is_named(setup, proxy, binary, home, project, upstream):
    env = {**client_env(home), "PATH": "/nonexistent"}
    assert "npm install -g @openai/codex" in setup(proxy, "codex", command="launch", env=env, code=1).err
    finished = run([binary, "setup", "codex", "--listen", "127.0.0.1:9"], client_env(home), project)
    assert finished.code == 1 and "start it first" in finished.err, str(finished)
    finished = run([binary, "setup", "codex", "--url", upstream.url], client_env(home), project)
    assert finished.code == 1 and "is not rejoinder" in finished.err, str(finished)


@pytest.mark.parametrize("client", ["vscode", "openai"])
def test_what_is_printed_can_be_used(setup, proxy, upstream, home, node, client, tmp_path):
    printed = setup(proxy, client).out
    if client == "vscode":
        [endpoint] = json.loads(printed)
        assert endpoint["apiType"] == "responses" and endpoint["models"][0]["url"] == proxy.base_url + "/responses"
        return
    assert f"OPENAI_BASE_URL={proxy.base_url}" in printed
    upstream.script(repeat=answer(SAID))
    here = Path(__file__).parent
    script = here / "node_modules" / ".setup-test.mjs"
    program = tmp_path / "said.mjs"
    program.write_text(printed[printed.index("import OpenAI from"):])
    shutil.copy(program, script)
    try:
        finished = run([node, script], client_env(home, OPENAI_BASE_URL=proxy.base_url, OPENAI_API_KEY="unused"), here)
    finally:
        script.unlink()
    assert finished.out.strip() == SAID, str(finished)
