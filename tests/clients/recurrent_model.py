"""A tiny model of the Mamba kind with random weights, as a GGUF file: what it writes is noise, and what llama.cpp does with
its state is what it does with any recurrent model. A token is a byte."""

import random
import struct

UINT32, FLOAT32, STRING, ARRAY, INT32 = 4, 6, 8, 9, 5
WIDTH, INNER, STATE, CONVOLUTION, RANK, LAYERS = 32, 64, 16, 4, 4, 2
ALIGNMENT = 32
NORMAL, UNKNOWN, CONTROL, BYTE = 1, 2, 3, 6


def string(text):
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def pair(key, kind, value):
    return string(key) + struct.pack("<I", kind) + value


def array(kind, count, values):
    return struct.pack("<IQ", kind, count) + values


def vocabulary():
    tokens = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)]
    return tokens + [(f"<0x{byte:02X}>", BYTE) for byte in range(256)]


def metadata(context):
    def number(key, value):
        return pair(key, UINT32, struct.pack("<I", value))

    tokens = vocabulary()
    count = len(tokens)
    return [
        pair("general.architecture", STRING, string("mamba")),
        number("mamba.context_length", context),
        number("mamba.embedding_length", WIDTH),
        number("mamba.feed_forward_length", 0),
        number("mamba.attention.head_count", 0),
        number("mamba.block_count", LAYERS),
        number("mamba.ssm.conv_kernel", CONVOLUTION),
        number("mamba.ssm.inner_size", INNER),
        number("mamba.ssm.state_size", STATE),
        number("mamba.ssm.time_step_rank", RANK),
        pair("mamba.attention.layer_norm_rms_epsilon", FLOAT32, struct.pack("<f", 1e-5)),
        pair("tokenizer.ggml.model", STRING, string("llama")),
        pair("tokenizer.ggml.tokens", ARRAY, array(STRING, count, b"".join(string(token) for token, _ in tokens))),
        pair("tokenizer.ggml.scores", ARRAY, array(FLOAT32, count, struct.pack(f"<{count}f", *[0.0] * count))),
        pair("tokenizer.ggml.token_type", ARRAY, array(INT32, count, struct.pack(f"<{count}i", *[kind for _, kind in tokens]))),
        number("tokenizer.ggml.unknown_token_id", 0),
        number("tokenizer.ggml.bos_token_id", 1),
        number("tokenizer.ggml.eos_token_id", 2),
    ]


def tensors():
    """Name and dimensions of each, the innermost first."""
    yield "token_embd.weight", (WIDTH, len(vocabulary()))
    yield "output_norm.weight", (WIDTH,)
    for layer in range(LAYERS):
        for name, dimensions in [
            ("attn_norm.weight", (WIDTH,)),
            ("ssm_in.weight", (WIDTH, 2 * INNER)),
            ("ssm_conv1d.weight", (CONVOLUTION, INNER)),
            ("ssm_conv1d.bias", (INNER,)),
            ("ssm_x.weight", (INNER, RANK + 2 * STATE)),
            ("ssm_dt.weight", (RANK, INNER)),
            ("ssm_dt.bias", (INNER,)),
            ("ssm_a", (STATE, INNER)),
            ("ssm_d", (INNER,)),
            ("ssm_out.weight", (INNER, WIDTH)),
        ]:
            yield f"blk.{layer}.{name}", dimensions


def write(path, context=32768):
    chance = random.Random(1)
    infos, data = b"", b""
    count = 0
    for name, dimensions in tensors():
        size = 1
        for dimension in dimensions:
            size *= dimension
        # a state has to fade
        low, high = (-2.0, -0.5) if name.endswith("ssm_a") else (-0.5, 0.5)
        values = [chance.uniform(low, high) for _ in range(size)]
        infos += string(name) + struct.pack("<I", len(dimensions)) + struct.pack(f"<{len(dimensions)}Q", *dimensions)
        infos += struct.pack("<IQ", 0, len(data))
        data += struct.pack(f"<{size}f", *values)
        data += b"\0" * (-len(data) % ALIGNMENT)
        count += 1
    pairs = metadata(context)
    head = b"GGUF" + struct.pack("<IQQ", 3, count, len(pairs)) + b"".join(pairs) + infos
    path.write_bytes(head + b"\0" * (-len(head) % ALIGNMENT) + data)
