// The official Node library against the base URL in argv: prints one JSON object, which test_openai_node.py reads.
import OpenAI from "openai";

const [mode, baseURL, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "sk-test", maxRetries: 0, timeout: 30_000 });

async function loop(ask) {
  const tools = [{
    type: "function", name: "step", strict: true, description: "One step",
    parameters: { type: "object", properties: { n: { type: "integer" } }, required: ["n"], additionalProperties: false },
  }];
  let input = "Count.", previous_response_id = null, rounds = 0;
  for (;;) {
    const response = await ask({ model, instructions: "Step by step.", input, tools, previous_response_id });
    const calls = response.output.filter((item) => item.type === "function_call");
    if (!calls.length) return { rounds, text: response.output_text, previous_response_id: response.previous_response_id };
    rounds += 1;
    previous_response_id = response.id;
    input = calls.map((item) => ({ type: "function_call_output", call_id: item.call_id, output: `out of ${item.call_id}` }));
  }
}

const modes = {
  async create() {
    const response = await client.responses.create({ model, input: "Say hello.", instructions: "Be brief." });
    return { response, text: response.output_text };
  },

  async stream() {
    const events = [];
    const stream = client.responses.stream({ model, input: "Say hello." });
    for await (const event of stream) events.push(event);
    const response = await stream.finalResponse();
    return { events, response, text: response.output_text };
  },

  async tools() {
    const tools = [{
      type: "function", name: "get_weather", strict: true, description: "The weather in a city",
      parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"], additionalProperties: false },
    }];
    const input = [{ role: "user", content: "Weather in Paris?" }];
    const first = await client.responses.stream({ model, input, tools }).finalResponse();
    for (const item of first.output) {
      const { parsed_arguments, ...rest } = item;
      input.push(rest);
      if (item.type === "function_call") input.push({ type: "function_call_output", call_id: item.call_id, output: "dry" });
    }
    const second = await client.responses.create({ model, input, tools });
    return { first, response: second, text: second.output_text };
  },

  // 50 rounds that send nothing but the outputs of the round before, and its id
  async loop() { return loop((body) => client.responses.create(body)); },
  async loopstream() { return loop((body) => client.responses.stream(body).finalResponse()); },

  async hangup() {
    const stream = await client.responses.create({ model, input: "A story.", stream: true });
    for await (const event of stream) if (event.type === "response.output_text.delta") break;
    return { left: true };
  },

  async error() {
    try {
      await client.responses.create({ model, input: "Too long.", stream: true });
      return { raised: null };
    } catch (e) {
      return { raised: e.constructor.name, status: e.status, code: e.code, message: e.message };
    }
  },

  async cut() {
    try {
      for await (const _ of await client.responses.create({ model, input: "Hi.", stream: true }));
      return { raised: null };
    } catch (e) {
      return { raised: e.constructor.name, code: e.code ?? null, message: e.message };
    }
  },
};

console.log(JSON.stringify(await modes[mode]()));
