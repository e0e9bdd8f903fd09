from typing import Annotated

from openai import OpenAI
from pydantic import BaseModel, Field

client = OpenAI()

Name = Annotated[str, Field(max_length=20)]


class CalendarEvent(BaseModel):
    name: Name
    day: Annotated[int, Field(ge=1, le=31)]
    participants: Annotated[list[Name], Field(max_length=3)]


response = client.responses.parse(
    model="gpt-5",
    input=[
        {"role": "system", "content": "Extract the event information."},
        {"role": "user", "content": "Alice and Bob are going to a science fair on the 12th."},
    ],
    text_format=CalendarEvent,
)
print(response.output_parsed.model_dump_json())
