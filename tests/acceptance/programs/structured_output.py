from typing import Annotated

from openai import OpenAI
from pydantic import BaseModel, Field

client = OpenAI()

Name = Annotated[str, Field(max_length=20)]


class CalendarEvent(BaseModel):
    name: Name
    day: Annotated[int, Field(ge=1, le=31)]
    participants: Annotated[list[Name], Field(max_length=3)]


completion = client.chat.completions.parse(
    model="gpt-4o",
    messages=[
        {"role": "system", "content": "Extract the event information."},
        {"role": "user", "content": "Alice and Bob are going to a science fair on the 12th."},
    ],
    response_format=CalendarEvent,
)
event = completion.choices[0].message.parsed
print(event.model_dump_json())
