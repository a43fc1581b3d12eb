"""A script without asyncio: an answer, a stream, an answer with its headers, and a conversation."""

import os

from gradient_async import Gradient as OpenAI

client = OpenAI(api_key=os.environ["OPENAI_API_KEY"], base_url=os.environ["OPENAI_BASE_URL"])

print("----- one answer")
completion = client.chat.completions.create(
    model="gpt-5.5",
    messages=[
        {"role": "developer", "content": "Answer briefly."},
        {"role": "user", "content": "Count to three."},
    ],
    seed=5,
)
print(completion.choices[0].message.content)
print(completion._request_id)

print("----- a stream")
stream = client.chat.completions.create(
    model="gpt-5.5",
    messages=[{"role": "user", "content": "Count to four."}],
    stream=True,
)
for chunk in stream:
    if not chunk.choices:
        continue
    print(chunk.choices[0].delta.content or "", end="")
print()

print("----- headers")
completion = client.chat.completions.create(
    model="gpt-5.5",
    messages=[{"role": "user", "content": "Count to two."}],
)
print(completion.request_id, completion.headers["content-type"])
print(completion.choices[0].message.content)

print("----- a conversation")
history = [{"role": "user", "content": "Count to two."}]
for question in ("Count to three.", "Count to four."):
    message = client.chat.completions.create(model="gpt-5.5", messages=history).choices[0].message
    history.append(message.model_dump(exclude_none=True))
    history.append({"role": "user", "content": question})
print([turn["role"] for turn in history])

print("----- models")
for model in client.models.list():
    print(model.id)
