"""A script: list the models, watch an answer with its reasoning, and keep a reply as JSON."""

import json
import os

from gradient_async import APIStatusError
from gradient_async import Gradient as Client

client = Client(
    api_key=os.environ["DIGITALOCEAN_TOKEN"],
    inference_endpoint=os.environ["GRADIENT_INFERENCE_ENDPOINT"],
    max_retries=1,
)

for model in client.models.list().data:
    print(model.id)

stream = client.chat.completions.create(
    model="llama3.3-70b-instruct",
    messages=[{"role": "user", "content": "Count to three."}],
    max_tokens=512,
    stream=True,
)
with stream:
    for chunk in stream:
        if not chunk.choices:
            continue
        delta = chunk.choices[0].delta
        piece = delta.reasoning_content or delta.content
        if piece:
            print(piece, end="")
print()

reply = client.chat.completions.create(
    model="llama3.3-70b-instruct",
    messages=[{"role": "user", "content": "Count to two."}],
)
assert reply.usage is not None
print(reply.choices[0].message.content, reply.usage.completion_tokens)
print(json.loads(reply.to_json())["object"])

try:
    client.chat.completions.create(
        model="error-404", messages=[{"role": "user", "content": "Is anybody there?"}]
    )
except APIStatusError as error:
    print(error.status_code, "asked for" in str(error))
