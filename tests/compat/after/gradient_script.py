"""A script without asyncio: ask a model, watch an answer, ask an agent, and read headers."""

import json
import os

import gradient_async
from gradient_async import Gradient

inference = Gradient(
    model_access_key=os.environ.get("GRADIENT_MODEL_ACCESS_KEY"),
)
agent = Gradient(
    agent_access_key=os.environ.get("GRADIENT_AGENT_ACCESS_KEY"),
)

question = {"role": "user", "content": "Count to three."}
response = inference.chat.completions.create(messages=[question], model="llama3.3-70b-instruct")
print(response.choices[0].message.content)
print(sorted(json.loads(response.to_json())))

stream = inference.chat.completions.create(
    messages=[question],
    model="llama3.3-70b-instruct",
    stream=True,
    stream_options={"include_usage": True},
)
for chunk in stream:
    for choice in chunk.choices:
        if choice.delta.content:
            print(choice.delta.content, end="|")
    if chunk.usage is not None:
        print(chunk.usage.completion_tokens)

completion = inference.chat.completions.create(messages=[question], model="llama3.3-70b-instruct")
print(completion.headers.get("X-Request-Id"))
print(completion.choices[0].finish_reason)

answer = agent.agents.chat.completions.create(messages=[question], model="")
print(answer.choices[0].message.content)

try:
    inference.with_options(max_retries=0).chat.completions.create(messages=[question], model="error-429")
except gradient_async.APIConnectionError as e:
    print("not reached", e.__cause__)
except gradient_async.RateLimitError as e:
    print("slow down", e.status_code, e.response.headers["retry-after"])
except gradient_async.APIStatusError as e:
    print("refused", e.status_code, e.response)
