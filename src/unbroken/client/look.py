"""How an answer looks: colours that read well on light and on dark, no backgrounds."""

from collections.abc import Mapping

from rich.style import Style
from rich.theme import Theme

THEME = Theme(
    {
        "markdown.h1": "bold underline",
        "markdown.h2": "bold underline",
        "markdown.h3": "bold",
        "markdown.h4": "bold italic",
        "markdown.h5": "italic",
        "markdown.h6": "italic",
        "markdown.code": "cyan",
        "markdown.code_block": "none",
        "markdown.block_quote": "italic",
        "markdown.item.bullet": "none",
        "markdown.item.number": "none",
        "markdown.link": "underline",
        "markdown.link_url": "dim",
        "markdown.table.header": "bold",
        "markdown.table.border": "dim",
        "chat.aside": "dim",
        "chat.error": "red",
    }
)

CODE: Mapping[tuple[str, ...], Style] = {
    ("Comment",): Style(dim=True, italic=True),
    ("Keyword",): Style(color="magenta"),
    ("Operator", "Word"): Style(color="magenta"),
    ("Name", "Function"): Style(bold=True),
    ("Name", "Class"): Style(bold=True),
    ("Name", "Decorator"): Style(color="cyan"),
    ("Name", "Tag"): Style(color="magenta"),
    ("Literal", "String"): Style(color="green"),
    ("Literal", "Number"): Style(color="cyan"),
    ("Generic", "Deleted"): Style(color="red"),
    ("Generic", "Inserted"): Style(color="green"),
    ("Generic", "Heading"): Style(bold=True),
}
