// What a web page tries at rejoinder. It runs in a real browser, and posts what came of it to whoever served it; what the
// browser keeps from the page, test_browser.py reads in rejoinder's log.
const { api, admin, model, attempts } = await (await fetch("/plan")).json();
const body = JSON.stringify({ model, input: "Say hello." });
const json = { "content-type": "application/json", authorization: "Bearer sk-test" };

async function told(response) {
  const text = await response.text();
  return { status: response.status, id: response.headers.get("x-request-id"), text };
}

function post(path, headers, body, more = {}) {
  return fetch(api + path, { method: "POST", headers, body, ...more });
}

const all = {
  // what needs no preflight, and no leave to read the answer
  async simple() { await post("/v1/responses", { "content-type": "text/plain" }, body, { mode: "no-cors" }); return "sent"; },
  async beacon() { return navigator.sendBeacon(api + "/responses", body) ? "sent" : "kept back"; },
  async form() {
    const form = Object.assign(document.createElement("form"), { method: "POST", action: api + "/codex/v1/responses", enctype: "text/plain", target: "sink" });
    form.append(Object.assign(document.createElement("input"), { name: body.slice(0, -1) + ',"metadata":{"a":"', value: '"}}' }));
    const sink = Object.assign(document.createElement("iframe"), { name: "sink" });
    document.body.append(form, sink);
    await new Promise((done) => { sink.onload = done; form.submit(); });
    return "sent";
  },
  async image() {
    const image = new Image();
    await new Promise((done) => { image.onload = image.onerror = done; image.src = api + "/image.png"; });
    return image.naturalWidth ? "shown" : "not shown";
  },
  async frame() {
    const frame = document.createElement("iframe");
    await new Promise((done) => { frame.onload = done; frame.src = api + "/frame"; document.body.append(frame); });
    return "opened";
  },
  async script() {
    const script = document.createElement("script");
    return new Promise((done) => {
      Object.assign(script, { onload: () => done("loaded"), onerror: () => done("not loaded"), src: api + "/script.js" });
      document.body.append(script);
    });
  },

  // what a page does that wants the answer
  async create() { return told(await post("/v1/responses", json, body)); },
  async plain() { return told(await post("/v1/responses", { "content-type": "text/plain" }, body)); },
  async refused() { return told(await post("/v1/responses", json, "{")); },
  async passed() { return told(await post("/v1/passed/on", json, "{}")); },
  async models() { return told(await fetch(api + "/v1/models")); },
  async metrics() { return told(await fetch(admin + "/metrics")); },
  async stream() {
    const response = await post("/v1/responses", json, JSON.stringify({ model, input: "Say hello.", stream: true }));
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (let piece; !(piece = await reader.read()).done;) text += piece.value;
    return { status: response.status, last: text.match(/event: (\S+)/g)?.pop() };
  },
  async events() {
    // an EventSource sends no key, so the response must be of nobody's
    const started = await (await post("/v1/responses", { "content-type": "application/json" }, JSON.stringify({ model, input: "Say hello.", background: true, stream: false }))).json();
    const source = new EventSource(`${api}/v1/responses/${started.id}?stream=true`);
    const type = await new Promise((done) => {
      for (const type of ["response.completed", "response.failed", "error"]) source.addEventListener(type, (event) => done(event.type));
    });
    source.close();
    return type;
  },
  async socket() {
    const socket = new WebSocket(api.replace("http", "ws") + "/v1/responses");
    return new Promise((done) => {
      socket.onopen = () => socket.send(JSON.stringify({ type: "response.create", model, input: "Say hello." }));
      socket.onmessage = ({ data }) => { const { type } = JSON.parse(data); if (type === "response.completed") done(type); };
      socket.onerror = () => done("not open");
    });
  },
  async openai() {
    const { default: OpenAI } = await import("/node_modules/openai/index.mjs");
    const client = new OpenAI({ baseURL: api + "/v1", apiKey: "sk-test", dangerouslyAllowBrowser: true, maxRetries: 0 });
    const stream = client.responses.stream({ model, input: "Say hello." });
    const response = await stream.finalResponse();
    const whole = await client.responses.create({ model, input: "Say hello." });
    return { streamed: response.output_text, whole: whole.output_text, id: whole._request_id };
  },
};

const results = {};
for (const name of attempts) {
  try {
    results[name] = await all[name]();
  } catch (error) {
    // fetch says no more than that of an answer that the page may not read
    results[name] = error instanceof TypeError || error.constructor.name === "APIConnectionError" ? "blocked" : String(error);
  }
}
await fetch("/result", { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(results) });
