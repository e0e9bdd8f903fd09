import sys
import time

from openai import APIConnectionError, APIError, OpenAI

client = OpenAI(max_retries=0)


def ask(prompt, attempts=5):
    for attempt in range(1, attempts + 1):
        try:
            text = ""
            stream = client.chat.completions.create(
                model=sys.argv[1], messages=[{"role": "user", "content": prompt}], stream=True
            )
            for chunk in stream:
                if chunk.choices and chunk.choices[0].delta.content:
                    text += chunk.choices[0].delta.content
            return text
        except APIConnectionError as error:
            print(f"attempt {attempt}: connection: {error}")
        except APIError as error:
            print(f"attempt {attempt}: after {text!r}: {error.message}")
        time.sleep(0.01 * 2**attempt)
    raise SystemExit("gave up")


print("answer:", ask("Hello, how are you?"))
