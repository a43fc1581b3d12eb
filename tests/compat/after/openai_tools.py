"""Watch a streamed answer by its events, run the tools that it asks for, and stream the rest."""

import asyncio
import json
import os

from gradient_async import AsyncGradient as AsyncOpenAI
from gradient_async import ChatCompletionMessage, GradientError
from gradient_async.types import MessageParam, ToolParam

TOOLS: list[ToolParam] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Tell the weather at a place",
            "parameters": {
                "type": "object",
                "properties": {"place": {"type": "string"}},
                "required": ["place"],
                "additionalProperties": False,
            },
        },
    }
]


async def main() -> None:
    client = AsyncOpenAI(api_key=os.environ["OPENAI_API_KEY"], base_url=os.environ["OPENAI_BASE_URL"])
    messages: list[MessageParam | ChatCompletionMessage] = [
        {"role": "user", "content": "What is the weather in Paris and Rome?"}
    ]
    try:
        async with client.chat.completions.stream(
            model="gpt-5.5", messages=messages, tools=TOOLS, parallel_tool_calls=True
        ) as stream:
            async for event in stream.events():
                if event.type == "content.delta":
                    print(event.delta, end="")
                elif event.type == "tool_calls.function.arguments.done":
                    print("call:", event.index, event.name, json.loads(event.arguments))
        message = (await stream.get_final_completion()).choices[0].message
    except GradientError as error:
        print("failed:", error)
        return

    messages.append(message)
    for call in message.tool_calls or []:
        place = json.loads(call.function.arguments)["place"]
        messages.append({"role": "tool", "tool_call_id": call.id, "content": f"sunny in {place}"})

    async with client.chat.completions.stream(model="gpt-5.5", messages=messages, tools=TOOLS) as stream:
        async for event in stream.events():
            if event.type == "content.delta":
                print(event.delta, end="")
            elif event.type == "content.done":
                print("\ndone:", len(event.content))
    final = await stream.get_final_completion()
    print(final.choices[0].finish_reason)
    await client.close()


asyncio.run(main())
