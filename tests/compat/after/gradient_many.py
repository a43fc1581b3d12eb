"""Many questions at once, with limits of time, retries, and a file of results."""

import asyncio
import json
import sys

import httpx
from gradient_async import APIError, APITimeoutError, AsyncGradient, ChatCompletion


async def ask(client: AsyncGradient, question: str, model: str) -> str:
    try:
        completion: ChatCompletion = await client.chat.completions.create(
            messages=[
                {"role": "system", "content": "You count."},
                {"role": "user", "content": question},
            ],
            model=model,
            max_tokens=60,
            temperature=0,
            extra_headers={"X-Team": "search"},
        )
    except APITimeoutError:
        return "too late"
    except APIError as error:
        return f"{type(error).__name__}: {error.message}"
    data = completion.to_dict()
    sys.stderr.write(json.dumps(data) + "\n")
    text: str = data["choices"][0]["message"]["content"]
    return text


async def main() -> None:
    timeout = httpx.Timeout(30.0, read=0.5, write=10.0, connect=2.0)
    async with AsyncGradient(timeout=timeout, max_retries=1) as client:
        patient = client.with_options(timeout=20.0, max_retries=0)
        answers = await asyncio.gather(
            ask(client, "Count to three.", "llama3.3-70b-instruct"),
            ask(patient, "Count to two.", "llama3.3-70b-instruct"),
            ask(client, "Count to four.", "error-404"),
            ask(client.with_options(max_retries=0), "Count to five.", "error-stall"),
        )
        for answer in answers:
            print(answer)


asyncio.run(main())
