// The official Node library's WebSocket client against the base URL in argv: prints one JSON object, which
// test_websocket_openai.py reads.
import OpenAI from "openai";
import { ResponsesWS } from "openai/resources/responses/ws";

const [mode, baseURL, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "sk-test", maxRetries: 0 });
const ends = ["response.completed", "response.incomplete", "response.failed"];

// Resolves each time that a response ends, or an error comes that is no response's; calls `on` with every event.
function connect(on = () => {}) {
  const socket = new ResponsesWS(client);
  const ended = [], waiting = [];
  const tell = (event) => (waiting.length ? waiting.shift()(event) : ended.push(event));
  socket.on("event", (event) => {
    on(event);
    if (ends.includes(event.type) || (event.type === "error" && event.sequence_number === undefined)) tell(event);
  });
  socket.on("error", () => {});
  const next = () => (ended.length ? Promise.resolve(ended.shift()) : new Promise((resolve) => waiting.push(resolve)));
  const create = (input, more = {}) => socket.send({ type: "response.create", model, input, store: false, ...more });
  const ask = (input, more) => (create(input, more), next());
  return { socket, create, next, ask };
}

const text = (event) => event.response.output[0].content[0].text;

const modes = {
  async turns() {
    const { socket, ask } = connect();
    const texts = [];
    let previous_response_id;
    for (const input of ["1?", "2?", "3?"]) {
      const event = await ask(input, { previous_response_id });
      previous_response_id = event.response.id;
      texts.push(text(event));
    }
    socket.close();
    return { texts };
  },

  async failed() {
    const { socket, ask } = connect();
    const code = (event) => [event.status, event.error.code];
    const unknown = code(await ask("x", { previous_response_id: "resp_unknown" }));
    const previous_response_id = (await ask("x")).response.id;
    const input = [{ type: "function_call_output", call_id: "call_none", output: "x" }];
    const orphan = (await ask(input, { previous_response_id })).status;
    const evicted = code(await ask("x", { previous_response_id }));
    const fresh = text(await ask("x"));
    socket.close();
    return { unknown, orphan, evicted, fresh };
  },

  async lanes() {
    const { socket, create, next } = connect();
    create("slow", { stream_id: "a" });
    create("quick", { stream_id: "b" });
    const ended = [];
    for (let n = 0; n < 2; n++) {
      const event = await next();
      ended.push([event.stream_id, text(event)]);
    }
    socket.close();
    return { ended };
  },

  async cancel() {
    let begun;
    const delta = new Promise((resolve) => (begun = resolve));
    const { socket, create } = connect((event) => event.type === "response.output_text.delta" && begun());
    create("A story.");
    await delta;
    socket.close();
    return { left: true };
  },
};

console.log(JSON.stringify(await modes[mode]()));
