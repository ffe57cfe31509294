"""How single words are spoken, wherever somebody may say so."""

from typing import Annotated

from pydantic import Field

WordsTable = Annotated[
    dict[
        Annotated[str, Field(pattern=r"^[^\[\]\n]{1,80}$")],
        Annotated[str, Field(pattern=r"^(/[^()/\n]{1,118}/|[^\[\]()/\n]{1,120})$")],
    ],
    Field(max_length=1000),
]
"""Words, and for each another spelling, or phonemes as in `/ˈænə/`."""
