// An agent with one tool, whose answer is printed as it arrives.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: "http://127.0.0.1:8081/v1", apiKey: "unused" });
const tools = [
  {
    type: "function",
    name: "get_weather",
    description: "The weather in a city.",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  },
];
const getWeather = ({ city }) => `It is sunny in ${city}.`;

const history = [{ role: "user", content: "What is the weather in Lisbon?" }];
for (;;) {
  let response;
  const stream = await client.responses.create({ model: "local", input: history, tools, stream: true });
  for await (const event of stream) {
    if (event.type === "response.output_text.delta") process.stdout.write(event.delta);
    if (event.type === "response.completed") response = event.response;
  }
  const calls = response.output.filter((item) => item.type === "function_call");
  if (calls.length === 0) break;
  history.push(...response.output);
  for (const call of calls) {
    const output = getWeather(JSON.parse(call.arguments));
    history.push({ type: "function_call_output", call_id: call.call_id, output });
  }
}
console.log();
