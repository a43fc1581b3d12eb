"""A script: list the models, watch an answer with its reasoning, and keep a reply as JSON."""

import json
import os

from pydo.exceptions import HttpResponseError
from pydo.inference import Client

client = Client(
    token=os.environ["DIGITALOCEAN_TOKEN"],
    inference_endpoint=os.environ["GRADIENT_INFERENCE_ENDPOINT"],
    retry_total=1,
)

for model in client.models.list()["data"]:
    print(model["id"])

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
        piece = delta.get("reasoning_content") or delta.get("content")
        if piece:
            print(piece, end="")
print()

reply = client.chat.completions.create(
    model="llama3.3-70b-instruct",
    messages=[{"role": "user", "content": "Count to two."}],
)
print(reply["choices"][0]["message"]["content"], reply.usage["completion_tokens"])
print(json.loads(json.dumps(reply))["object"])

try:
    client.chat.completions.create(
        model="error-404", messages=[{"role": "user", "content": "Is anybody there?"}]
    )
except HttpResponseError as error:
    print(error.status_code, "asked for" in str(error))
