"""An agent with one tool, whose answer is printed as it arrives."""

import json

from openai import OpenAI

client = OpenAI(base_url="http://127.0.0.1:8081/v1", api_key="unused")
tools = [
    {
        "type": "function",
        "name": "get_weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    }
]


def get_weather(city):
    return f"It is sunny in {city}."


history = [{"role": "user", "content": "What is the weather in Lisbon?"}]
while True:
    with client.responses.stream(model="local", input=history, tools=tools) as stream:
        for event in stream:
            if event.type == "response.output_text.delta":
                print(event.delta, end="", flush=True)
        response = stream.get_final_response()
    calls = [item for item in response.output if item.type == "function_call"]
    if not calls:
        break
    history += [item.model_dump(exclude_none=True, exclude={"parsed_arguments"}) for item in response.output]
    for call in calls:
        output = get_weather(**json.loads(call.arguments))
        history.append({"type": "function_call_output", "call_id": call.call_id, "output": output})
print()
